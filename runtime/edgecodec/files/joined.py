"""What of a file is one recording: containers say where they end, and another may follow.

Text-to-speech writes sentences one behind the other, and `cat` joins files: each is a part, read in its turn. What a
container says of its length is compared with what is there; libsndfile reads a truncated file as if it were shorter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import AudioError
from .flac import flac_pieces
from .mpeg import behind_tags, is_as_it_was_made, mpeg_runs
from .ogg import ogg_links
from .slices import Piece, bytes_at, size_of

UNKNOWN_SIZES = ((0x7F000000, 0x80010000), (0xFFFF0000, 0xFFFFFFFF), (1_999_990_000, 2_000_010_000), (0, 0))
"""Sizes that programs write who cannot know them yet, less or more some bytes of head."""

_BLOCK = 1 << 20
_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22", re.DOTALL)  # with the head of the block that comes first
_CHANGED = "its checksum is not that of its sound: it was damaged, or edited, since it was made"
_ID3V1 = 128  # bytes
_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")


@dataclass(frozen=True)
class Part:
    """A recording within a file, and how many samples it has at least, where libsndfile may not know."""

    pieces: list[Piece]
    samples: int | None = None
    doubt: str = ""  # what is to be said of it, though it can be read


def size_is_known(size: int, *, behind: int) -> bool:
    """Whether a size of 32 bits in a header is meant; one that fits what is there (`behind`) always is."""
    return 0 < size <= behind or not any(low <= size <= high for low, high in UNKNOWN_SIZES)


def parts_of(file: BinaryIO) -> list[Part]:
    """The parts of a file, one at least; what it is, its first bytes tell.

    Raises:
        AudioError: a file that is truncated or damaged.
    """
    start = behind_tags(file)
    head = bytes_at(file, start, 4)
    if head[:4] == b"OggS":
        parts = [Part([(link.start, link.end)]) for link in ogg_links(file, start)]
    elif head == b"fLaC":
        parts = [Part(flac_pieces(file, *places)) for places in _flac_places(file)]
    elif start or head[:1] == b"\xff":
        parts = _mpeg_parts(file)
    else:
        parts = [Part([piece]) for piece in _sized_pieces(file)]
    return parts or [Part([(0, size_of(file))])]


def _mpeg_parts(file: BinaryIO) -> list[Part]:
    runs = mpeg_runs(file)
    return [
        Part(run.told(), doubt="" if is_as_it_was_made(file, run) else _CHANGED)
        if run.can_be_told
        else Part(run.as_found(), run.samples)
        for run in runs
    ]


def _flac_places(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Where each of several begins, where the sound in it does, and where it ends."""
    size = size_of(file)
    end = size - _ID3V1 if bytes_at(file, max(0, size - _ID3V1), 3) == b"TAG" else size
    start = _next_flac(file, 0, end)
    while start is not None:
        sound = _first_frame(file, start, end)
        follows = _next_flac(file, sound, end)
        yield start, sound, end if follows is None else follows
        start = follows


def _first_frame(file: BinaryIO, start: int, end: int) -> int:
    """Where the sound of FLAC begins, behind its blocks of data about it, which may hold pictures."""
    position, last = start + 4, False
    while not last and position < end:
        head = bytes_at(file, position, 4)
        last = bool(head[0] & 0x80)
        position += 4 + int.from_bytes(head[1:], "big")
    return position


def _next_flac(file: BinaryIO, position: int, end: int) -> int | None:
    while position < end:
        block = bytes_at(file, position, min(_BLOCK, end - position))
        if (found := _FLAC.search(block)) is not None:
            return position + found.start()
        if len(block) < _BLOCK:
            return None
        position += _BLOCK - 7  # it may begin in this block and end in the next
    return None


def _sized_pieces(file: BinaryIO) -> Iterator[Piece]:
    """Pieces of containers that begin with a word and say their size."""
    size, start = size_of(file), 0
    while True:
        end = _container_end(file, start, size)
        if end > size:
            raise AudioError(f"truncated, its header promises {end} bytes, it has {size}")
        if end <= start:  # or it would begin there again, for ever
            raise AudioError(f"damaged at byte {start}: its header says that it ends there")
        yield start, end
        rest = bytes_at(file, end, 16)
        if not rest or rest[:4] != bytes_at(file, start, 4):
            check_rest(file, end)
            return
        start = end


def check_rest(file: BinaryIO, position: int) -> None:
    """Refuse what follows the sound of a file and may be sound, too.

    Raises:
        AudioError: bytes that are neither filling nor a tag.
    """
    rest = bytes_at(file, position, _BLOCK)
    if len(rest) >= 4 and rest.strip(b"\0") and rest[:3] not in (b"TAG", b"ID3"):
        raise AudioError(f"what follows at byte {position} is no part of it that can be read")


def _container_end(file: BinaryIO, start: int, size: int) -> int:
    """Where a container ends by what it says, `size` where it says nothing."""
    head = bytes_at(file, start, 40)
    rest = size - start
    if head[:4] == b"FORM":
        length = int.from_bytes(head[4:8], "big")
        # The byte that fills up an odd length may be missing.
        return (
            min(start + 8 + length + length % 2, max(size, start + 8 + length))
            if size_is_known(length, behind=rest)
            else size
        )
    if head[:4] == b"RIFF":  # whether the sound in it is there is seen by its own size
        length = int.from_bytes(head[4:8], "little")
        return (
            min(size, start + 8 + length + length % 2) if size_is_known(length, behind=rest) and length > 36 else size
        )
    if head[:16] == _W64:
        return start + int.from_bytes(head[16:24], "little")
    if head[:4] == b".snd":
        offset, length = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
        return start + offset + length if size_is_known(length, behind=rest) else size
    if head[:4] == b"caff":
        return _caf_end(file, start, size)
    return size


def _caf_end(file: BinaryIO, start: int, size: int) -> int:
    position = start + 8
    while len(head := bytes_at(file, position, 12)) == 12 and head[:4] != b"caff" and head.strip(b"\0"):
        length = int.from_bytes(head[4:], "big", signed=True)
        if length < 0:
            return size
        position += 12 + length
    return position
