"""Saved models in repositories of the Hub: the folder `zoo/`, beside what other libraries open."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from zoo.console import say
from zoo.errors import ExportError
from zoo.model import artefact
from zoo.model.model import Model
from zoo.model.restore import restore
from zoo.store import upload
from zoo.store.model_folders import PUSHED

LIBRARIES = ("transformers", "sentence-transformers")
"""Formats that are tried for the files beside the saved model, which the Hub's own tools open."""


def push(saved: Path, repo: str, *, private: bool = False, dry_run: bool = False) -> list[str]:
    """Upload a saved model, with the files of transformers or sentence-transformers where it can be expressed there.

    Returns the paths in the repository. Raises ArtefactError for a damaged folder, StoreError.
    """
    upload.check_name(repo)
    manifest = artefact.read(saved)
    own = [artefact.weights(saved, manifest), *artefact.files(saved, manifest).values()]
    with tempfile.TemporaryDirectory(prefix="zoo-push-") as scratch:
        stage = Path(scratch, "repository")
        _beside(saved, stage)
        for path in (*own, saved / artefact.MANIFEST, saved / "README.md"):
            target = stage / PUSHED / path.relative_to(saved)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        shutil.copyfile(saved / "README.md", stage / "README.md")
        paths = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file())
        if not dry_run:
            commit = upload.upload(stage, repo, private=private)
            say("pushed", f"hf://{repo}, {len(paths)} files, commit {commit[:12]}   zoo predict hf/{repo} INPUT")
    return paths


def _beside(saved: Path, stage: Path) -> None:
    """Export to the first library that can express the model; without any, say why the repository has no such files."""
    model, refused = Model.restored(restore(saved)), ""
    for library in LIBRARIES:
        try:
            model.export(library, stage)
        except ExportError as error:
            refused = refused or error.what
        else:
            return
    stage.mkdir()
    say("note", f"without files for other libraries: {refused}")
