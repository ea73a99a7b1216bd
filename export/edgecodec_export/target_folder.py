"""A folder that is written beside its place, and moved there only when all is well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecodec.durable import new_folder, settle
from edgecodec.errors import ExportError


@contextmanager
def bundle_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place if nothing fails; else nothing is left of it.

    Raises:
        ExportError: a target that exists (with `force`, one that is no bundle), or that cannot be written.
    """
    settle(target)
    if target.exists() and not force:
        raise ExportError(f"{target}: exists; -f replaces it")
    if target.exists() and not _is_bundle_or_empty(target):
        raise ExportError(f"{target}: is no bundle; -f replaces only bundles and empty folders")
    beside = next(folder for folder in target.absolute().parents if folder.exists())
    try:
        with new_folder(target, beside=beside) as temporary:
            yield temporary
    except OSError as error:
        raise ExportError(f"{error.filename or target}: {error.strerror or error}") from None


def _is_bundle_or_empty(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "manifest.json").exists() or not any(folder.iterdir()))
