"""A folder that is written beside its place, and moved there only when all is well."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecodec.errors import ExportError


@contextmanager
def bundle_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place if nothing fails; else nothing is left of it.

    Raises:
        ExportError: a target that exists (with `force`, one that is no bundle), or that cannot be written.
    """
    if target.exists() and not force:
        raise ExportError(f"{target}: exists; -f replaces it")
    if target.exists() and not _is_bundle_or_empty(target):
        raise ExportError(f"{target}: is no bundle; -f replaces only bundles and empty folders")
    beside = next(folder for folder in target.absolute().parents if folder.exists())
    temporary = beside / f".{target.name}-{secrets.token_hex(6)}.tmp"
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir()
        yield temporary
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise ExportError(f"{error.filename or target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _is_bundle_or_empty(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "manifest.json").exists() or not any(folder.iterdir()))
