"""What was found out once and need not be again: keys in a small file of the user's cache folder.

    ~/.cache/edgecodec/NAME          %LOCALAPPDATA%, ~/Library/Caches elsewhere; $XDG_CACHE_HOME where it is set
        edgecodec remembers 1
        <64 hex digits>              a key a line, the newest last

It helps and never hinders: a file that is missing, damaged, too long or another user's holds nothing, and one that
cannot be written is left alone. Of two that write at once, one key may be forgotten. A key tells by itself what was
found out: `key_of(fingerprint, "tried")`.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from .durable import new_file

_HEAD = "edgecodec remembers 1\n"
_KEY = re.compile(r"[0-9a-f]{64}")
_KEY_SIZE = 65  # bytes of a line


def key_of(*parts: str | bytes) -> str:
    """A key of 64 hex digits, which no other parts have."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


class Remembered:
    """A set of at most so many keys, by the name of its file; the oldest is forgotten first."""

    def __init__(self, name: str, most: int = 256) -> None:
        self._name, self._most = name, most

    def __contains__(self, key: str) -> bool:
        return key in self._keys()

    def add(self, key: str) -> None:
        """Remember a key from now on, if that can be."""
        folder = cache_folder()
        if folder is None:
            return
        keys = [*(known for known in self._keys() if known != key), key][-self._most :]
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with new_file(folder / self._name) as temporary:
                temporary.write_text(_HEAD + "".join(f"{known}\n" for known in keys), encoding="ascii")

    def _keys(self) -> list[str]:
        """Oldest first."""
        folder = cache_folder()
        if folder is None:
            return []
        path = folder / self._name
        try:
            if not path.is_file() or not _is_ours(path):
                return []
            with path.open("rb") as file:
                text = file.read(len(_HEAD) + self._most * _KEY_SIZE + 1).decode("ascii", "replace")
        except OSError:
            return []
        keys = text.removeprefix(_HEAD).splitlines()
        whole = text.startswith(_HEAD) and text.endswith("\n") and all(map(_KEY.fullmatch, keys))
        return keys if whole and len(keys) <= self._most else []


def cache_folder() -> Path | None:
    """Where this user's programs keep what they can do without; None where there is no such place.

    A home of somebody else (`sudo` keeps it) is none: what its owner writes there is not to be believed.
    """
    try:
        if sys.platform == "win32":
            base = Path(os.environ["LOCALAPPDATA"])
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            chosen = os.environ.get("XDG_CACHE_HOME", "")
            base = Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache"
        folder = base / "edgecodec"
        there = next(path for path in (folder, *folder.parents) if path.exists())
        return folder if _is_ours(there) else None
    except (KeyError, OSError, RuntimeError, StopIteration):  # RuntimeError: no home
        return None


def _is_ours(path: Path) -> bool:
    return sys.platform == "win32" or path.stat().st_uid == os.geteuid()
