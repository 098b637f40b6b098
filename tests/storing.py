"""Shared helpers of the store tests: two small files, an entry for them, and the contents of the store."""

import ctypes
import hashlib
import os

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
    """Return the names of the blobs and of the partial downloads in the store, without lock files."""
    folders = (store.home() / "blobs", store.home() / "tmp")
    return [sorted(path.name for path in folder.glob("*") if path.suffix != ".lock") for folder in folders]


def drop_root():
    """Drop all capabilities of root (Linux capset, header version 3), so that file permissions apply."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
