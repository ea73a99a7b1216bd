"""Models of the Hugging Face hub by name, through huggingface-hub: its cache, its tokens, its offline mode.

https://huggingface.co/docs/huggingface_hub/package_reference/file_download
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgecodec.errors import CheckpointError, one_line

PREFIX = "hf:"
_WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", "README.md", "LICENSE*"]
_OLDER = ["pytorch_model.bin", "*.th", "*.pth"]  # where there are no safetensors
_LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True)
class Snapshot:
    """The files of a repository at one revision."""

    folder: Path
    revision: str
    licence: str  # as the repository's card says it; empty where it says none


def download(source: str) -> Snapshot:
    """The files of `hf:owner/name` or `hf:owner/name@revision` that a codec needs.

    Raises:
        CheckpointError: no such name, a repository that is missing, private or gated, no network and nothing cached.
    """
    name, _, revision = source.removeprefix(PREFIX).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(f"{source}: give hf:owner/name, or hf:owner/name@revision")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=_WANTED))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=_WANTED + _OLDER))
    except GatedRepoError:
        raise CheckpointError(
            f"{source}: gated: accept its terms at https://huggingface.co/{name}, then run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{source}: the repository has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{source}: no such repository, or a private one: check the name, or run `hf auth login`"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise CheckpointError(
            f"{source}: not in the local cache, and the hub cannot be reached: connect once, or give a folder"
        ) from None
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{source}: the hub cannot be reached: {one_line(error, 200)}") from None
    return Snapshot(folder, folder.name, licence_of(folder))


def licence_of(folder: Path) -> str:
    """The licence that a repository's card names in its head, or an empty text."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    head = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    found = _LICENCE.search(head)
    return found.group(1) if found else ""
