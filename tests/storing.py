"""What the tests of the store share: two small files, and what is kept of them."""

import hashlib

from zoo import store
from zoo.plugin import Entry, File, ImageInput

WEIGHTS = bytes(range(256)) * 1000
FILES = {"model.safetensors": WEIGHTS, "config.json": b'{"a": 1}'}
NAMES = tuple(File(path) for path in FILES)
INPUT = ImageInput(8, (0.5,), (0.5,))


def entry(source, files=NAMES, name="native/net", catalogue=""):
    return Entry(name, "native", "image", INPUT, source=source, files=tuple(files), catalogue=catalogue)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def kept():
    """Return what is in the store: blobs, and files that are on their way; not the guards, which are empty."""
    folders = (store.home() / "blobs", store.home() / "tmp")
    return [sorted(path.name for path in folder.glob("*") if path.suffix != ".lock") for folder in folders]
