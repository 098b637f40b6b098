"""Upload a folder to a repository of the Hugging Face Hub, in one commit."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.errors import StoreError
from zoo.plugin import Entry, TextInput
from zoo.store import hub, web

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def check_name(repo: str) -> None:
    """Raise StoreError unless `repo` is organisation/name."""
    if not REPOSITORY.fullmatch(repo):
        raise StoreError(f"{repo!r} is not the name of a repository", fix="zoo push MODEL organisation/name")


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Upload all files of a folder, and return the commit; creates the repository if there is none.

    The files arrive together, in one commit: an upload that is interrupted changes nothing, and a repeated one sends no
    large file again that has arrived. Raises StoreError.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    constants.HF_HUB_DISABLE_TELEMETRY = True
    entry = Entry(f"hf/{repo}", "hf", "text", TextInput((), 1), source=f"hf://{repo}")
    endpoint = hub.endpoint_of(entry)
    api = HfApi(endpoint=endpoint, user_agent=web.agent())
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        made = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="zoo push")
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "?")
        said = str(error.server_message or error).splitlines()[0]
        fix = "hf auth login   (with a token that may write), then: zoo push MODEL organisation/name"
        raise StoreError(f"{repo} cannot be written: the Hub answers {status}: {said}", fix=fix) from error
    except (web.transport_error(), OfflineModeIsEnabled, HFValidationError, OSError, ValueError) as error:
        what = f"{repo} cannot be written: {type(error).__name__}: {error}"
        raise StoreError(what, fix="run the command again: what has arrived is not sent again") from error
    return str(made.oid)
