"""Ogg, page by page: libsndfile reads the first of several streams that come one after another, and nothing behind it.

    begin  page  page … end | begin  page … end          two links of a chain

Pages that are damaged it passes over without a word; here they are found by checksum and number.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from ..errors import AudioError
from .slices import bytes_at, size_of

_HEAD = 27  # bytes of a page before its table of segments
_LARGEST = _HEAD + 255 + 255 * 255
_BEGIN, _END = 2, 4  # flags of a page
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # each byte, its bits the other way round


@dataclass
class OggLink:
    """Streams that begin together, up to the next that begins."""

    start: int  # bytes in the file
    end: int
    due: dict[int, int] = field(default_factory=dict)  # number of the next page of each stream
    ended: bool = False  # whether one of them has had its last page


def ogg_links(file: BinaryIO, start: int = 0) -> list[OggLink]:
    """The links of a chain that begins at a byte.

    Raises:
        AudioError: a file that is truncated or damaged.
    """
    links: list[OggLink] = []
    beginning = False
    for position, page in _pages(file, start, size_of(file)):
        flags, serial, number = page[5], page[14:18], int.from_bytes(page[18:22], "little")
        if flags & _BEGIN and not beginning:
            _check(links)
            links.append(OggLink(position, position))
        beginning = bool(flags & _BEGIN)
        if not links:
            raise AudioError("an Ogg file without its beginning")
        link, stream = links[-1], int.from_bytes(serial, "little")
        if number != link.due.get(stream, number):
            raise AudioError(f"damaged at byte {position}: pages are missing before it")
        link.due[stream], link.end = number + 1 & 0xFFFFFFFF, position + len(page)
        link.ended |= bool(flags & _END)
    _check(links)
    return links


def _check(links: list[OggLink]) -> None:
    if links and not links[-1].ended:
        raise AudioError(f"truncated: the stream that ends at byte {links[-1].end} lacks its last page")


def _pages(file: BinaryIO, position: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Where each page begins, and its bytes."""
    while position < size:
        data = bytes_at(file, position, _LARGEST)
        if data[:4] != b"OggS":
            if data[:3] == b"TAG" or not data.strip(b"\0"):  # a note that some programs put behind, or filling
                return
            raise AudioError(f"damaged at byte {position}: no page begins there")
        segments = data[_HEAD - 1] if len(data) >= _HEAD else 0
        page = data[: _HEAD + segments + sum(data[_HEAD : _HEAD + segments])]
        if len(data) < _HEAD + segments or len(page) < _HEAD + segments + sum(data[_HEAD : _HEAD + segments]):
            raise AudioError(f"truncated in the page at byte {position}")
        if page_checksum(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little"):
            raise AudioError(f"damaged in the page at byte {position}")
        yield position, page
        position += len(page)


def page_checksum(data: bytes) -> int:
    """The CRC-32 of Ogg: that of zlib, but for the order of bits, its start and its end."""
    turned = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{turned:032b}"[::-1], 2)
