"""Members of tar archives of strangers, read once from front to end: every size is bounded before it is believed.

    512 bytes     name 100, mode 8, owners 16, size 12, time 12, checksum 8, kind 1, …, "ustar", …, prefix 155 at 345
    content       padded to whole blocks of 512 bytes
    …
    1024 zeros    the end, or the file just ends

A member of kind x (pax) or L (GNU) holds the name or size of the next one. Sizes are octal digits, or 0x80 and a binary
number. Only regular files count; links are not followed. (POSIX.1-2017, pax; GNU tar manual, "Basic Tar Format".)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Protocol, cast

from ..errors import DataError

MOST_BYTES = 1 << 36  # of one member: a larger size is damage
HEADER_BYTES = 1 << 20  # of what says the next member's name
MOST_HEADERS = 8  # in a row
BLOCK_BYTES = 1 << 18
NOTE_BYTES = 1_000_000  # a JSON larger than this is no note on a clip

_BLOCK = 512
_HEADERS = (b"x", b"g", b"L", b"K")
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices and folders, whatever their size says
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_LOW = bytes(range(128))
_ZEROS = bytes(_BLOCK)


class Readable(Protocol):
    """What an archive is read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


@dataclass(frozen=True)
class Member:
    """A regular file of an archive: its name, where its bytes lie, and how many there are."""

    name: str
    offset: int
    size: int


def parse_note(data: bytes) -> Any:
    """What a JSON of a shard says, of which at most one byte more than `NOTE_BYTES` was read.

    Raises:
        DataError: too long, or no JSON.
    """
    if len(data) > NOTE_BYTES:
        raise DataError(f"a JSON of more than {NOTE_BYTES} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"unreadable JSON: {error}") from None


def split_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member of a shard: members with one key belong together."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.name else name, path.suffix.lower()


class TarReader:
    """The members of an archive, one after another; `content` reads the present one.

    Args:
        stream: the archive.
        seekable: pass over content that nobody asks for, in place of reading it.

    Raises:
        DataError: from every method, where it is no tar, damaged, or ends too early.
    """

    def __init__(self, stream: Readable | BinaryIO, *, seekable: bool = False) -> None:
        self._stream, self._position, self._seekable = stream, 0, seekable
        self._left = 0  # bytes of the present member that were not read, padding and all

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            yield member

    def content(self, member: Member, most: int) -> bytes:
        """The first `most` bytes of the present member."""
        data = self._exactly(min(most, member.size))
        self._left -= len(data)
        return data

    def _next(self) -> Member | None:
        told: dict[bytes, bytes] = {}  # what headers before a member say of it
        headers = 0
        while (head := self._head()) is not None:
            kind, size = head[156:157], _number(head[124:136])
            if kind in _HEADERS:
                headers += 1
                if not 0 <= size <= HEADER_BYTES or headers > MOST_HEADERS:
                    raise DataError(f"tar headers of more than {HEADER_BYTES} bytes, or more than {MOST_HEADERS}")
                data = self._exactly(size)
                self._exactly(-size % _BLOCK)
                told |= _records(data) if kind == b"x" else {b"path": data.rstrip(b"\0")} if kind == b"L" else {}
                continue
            size = _decimal(told[b"size"]) if b"size" in told else size
            if not 0 <= size <= MOST_BYTES:
                raise DataError(f"a tar member of {size} bytes")
            self._left = 0 if kind in _WITHOUT_CONTENT else size + -size % _BLOCK
            name = (told.get(b"path") or _short_name(head)).decode("utf-8", "surrogateescape")
            is_sparse = any(key.startswith(b"GNU.sparse") for key in told)
            if kind in _REGULAR and not is_sparse and not name.endswith("/"):  # a folder, before POSIX
                return Member(name, self._position, size)
            told, headers = {}, 0
        return None

    def _head(self) -> bytes | None:
        """The next header, None at the end."""
        self._skip()
        is_first = not self._position
        head = self._up_to(_BLOCK)
        if head == _ZEROS or (not head and not is_first):
            return None
        if is_first and head.startswith(_COMPRESSED):
            raise DataError("compressed: shards are plain tar files")
        if len(head) < _BLOCK:
            raise DataError("a tar that ends within a header, or none")
        unsigned = sum(head[:148]) + 8 * 32 + sum(head[156:])
        high = (head[:148] + head[156:]).translate(None, _LOW)
        signed = unsigned - 256 * len(high)  # as some old programs add them
        if _number(head[148:156]) not in (unsigned, signed):
            raise DataError("no tar, or one whose header is damaged")
        return head

    def _skip(self) -> None:
        if self._seekable and self._left > BLOCK_BYTES:
            cast(BinaryIO, self._stream).seek(self._left - 1, os.SEEK_CUR)
            self._position += self._left - 1
            self._left = 1  # is read, for it may not be there
        while self._left:
            self._left -= len(self._exactly(min(self._left, BLOCK_BYTES)))

    def _exactly(self, size: int) -> bytes:
        data = self._up_to(size)
        if len(data) < size:
            raise DataError("a tar that ends within a member")
        return data

    def _up_to(self, size: int) -> bytes:
        """So many bytes, or those up to the end; memory is taken as they come."""
        parts = []
        while size and (part := self._stream.read(min(size, BLOCK_BYTES))):
            parts.append(part)
            size -= len(part)
            self._position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _short_name(head: bytes) -> bytes:
    name, prefix = (head[a:b].partition(b"\0")[0] for a, b in ((0, 100), (345, 500)))
    return prefix + b"/" + name if head[257:263] == b"ustar\0" and prefix else name


def _number(text: bytes) -> int:
    """Octal digits between blanks; or a binary number, below zero with 0xFF."""
    if text[0] in (0x80, 0xFF):
        return int.from_bytes(text[1:], "big") - (256 ** (len(text) - 1) if text[0] == 0xFF else 0)
    digits = text.partition(b"\0")[0].strip()
    if not all(digit in b"01234567" for digit in digits):
        raise DataError("no tar, or one whose header is damaged")
    return int(digits or b"0", 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise DataError("no tar, or one whose header is damaged")
    return int(text)


def _records(data: bytes) -> dict[bytes, bytes]:
    """Records of a pax header: `<length> <key>=<value>` and a line feed."""
    records, position = {}, 0
    while position < len(data):
        end = data.find(b" ", position, position + 8)
        if end <= position:
            raise DataError("a tar whose pax header is damaged")
        length = _decimal(data[position:end])
        record = data[end + 1 : position + length]
        key, equals, value = record.partition(b"=")
        if not equals or position + length > len(data) or record[-1:] != b"\n":
            raise DataError("a tar whose pax header is damaged")
        records[key] = value[:-1]
        position += length
    return records
