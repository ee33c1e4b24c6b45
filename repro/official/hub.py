"""Where a file of the Hugging Face hub lies today, and what the hub says of it.

The library resolves repository, revision and login; the transfer is `repro.data.download`, since
that of the library begins anew after every interruption.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from repro.data.download import Interrupted, Refused, Unavailable
from repro.official.published import Hub

ENDPOINT: str | None = None
"""Another hub than that which ``HF_ENDPOINT`` names."""


@dataclass(frozen=True)
class Located:
    """A file at its source: address, headers for it, and what is known of its content."""

    address: str
    headers: dict[str, str] = field(default_factory=dict)
    revision: str | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    size: int | None = None


def locate(hub: Hub, revision: str | None, name: str) -> Located:
    """Ask the hub for a file of a repository.

    revision: None for the newest.

    Raises:
        Refused: the file, the revision or the repository is not there, or needs an agreement.
        Interrupted: the hub cannot be reached.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(
        hub.repository,
        name,
        repo_type="dataset" if hub.dataset else "model",
        revision=revision,
        endpoint=ENDPOINT,
    )
    try:
        found = get_hf_file_metadata(url, timeout=30, endpoint=ENDPOINT)
    except Exception as error:  # its transport raises exceptions of several libraries
        raise _unavailable(hub, revision or "main", name, error) from error
    etag = (found.etag or "").lower()
    same = urlsplit(found.location).netloc == urlsplit(url).netloc
    return Located(
        found.location,
        build_hf_headers() if same else {},
        found.commit_hash,
        sha256=etag if re.fullmatch("[0-9a-f]{64}", etag) else None,
        git_sha1=etag if re.fullmatch("[0-9a-f]{40}", etag) else None,
        size=found.size,
    )


def _unavailable(hub: Hub, revision: str, name: str, error: Exception) -> Unavailable:
    """What an answer of the hub means."""
    from huggingface_hub import errors

    said = {
        errors.GatedRepoError: "asks for an agreement: accept it there, then `hf auth login`",
        errors.RevisionNotFoundError: f"has no revision {revision}",
        errors.EntryNotFoundError: f"has no file {name} at {revision[:12]}",
        errors.RepositoryNotFoundError: "is not there, or private",
    }
    for kind, what in said.items():
        if isinstance(error, kind):
            return Refused(f"{hub.page} {what}")
    if isinstance(error, errors.HfHubHTTPError):
        code = error.response.status_code
        answer = f"{hub.page} answered {code} for {name}"
        return Interrupted(answer) if code == 429 or code >= 500 else Refused(answer, code)
    return Interrupted(f"{hub.page} cannot be reached ({type(error).__name__})")
