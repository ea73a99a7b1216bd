"""Parts of a file as files of their own: what libsndfile reads when only a part is meant, or a header is put right."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from itertools import accumulate
from typing import Any, BinaryIO

_AHEAD = 1 << 16  # bytes read at once: libsndfile asks for some hundreds

Piece = bytes | tuple[int, int]  # bytes as they are, or those of the file from one position up to another


class Slices(io.RawIOBase):
    """Pieces of a file one after another.

    libsndfile takes an error of reading for the end of a file, so that it is kept in `error`, to be asked for.
    """

    def __init__(self, file: BinaryIO, pieces: list[Piece]) -> None:
        self._file, self._pieces, self._position = file, pieces, 0
        sizes = (len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)
        self._starts = list(accumulate(sizes, initial=0))
        self.error: OSError | None = None
        self._block, self._block_start = b"", 0  # what was read last

    def readable(self) -> bool:
        """It is read."""
        return True

    def seekable(self) -> bool:
        """It can seek."""
        return True

    def tell(self) -> int:
        """Bytes before the next one."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on at another byte."""
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, begin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, less only at the end or at an error."""
        inside, size = self._position - self._block_start, len(buffer)
        if 0 <= inside <= len(self._block) - size:  # as nearly always
            buffer[:] = self._block[inside : inside + size]
            self._position += size
            return size
        view, filled = memoryview(buffer).cast("B"), 0
        while filled < len(view):
            inside = self._position - self._block_start
            if not 0 <= inside < len(self._block):
                inside, self._block_start, self._block = 0, self._position, self._block_at(self._position)
                if not self._block:
                    break
            data = self._block[inside : inside + len(view) - filled]
            view[filled : filled + len(data)] = data
            filled += len(data)
            self._position += len(data)
        return filled

    def _block_at(self, position: int) -> bytes:
        """Some bytes from a position on, of one piece; none at the end, and at an error."""
        number = bisect_right(self._starts, position) - 1
        if number == len(self._pieces):
            return b""
        piece, inside = self._pieces[number], position - self._starts[number]
        if isinstance(piece, bytes):
            return piece[inside:]
        try:
            return bytes_at(self._file, piece[0] + inside, min(_AHEAD, piece[1] - piece[0] - inside))
        except OSError as error:
            self.error = error
            return b""


def bytes_at(file: BinaryIO, position: int, size: int) -> bytes:
    """Up to `size` bytes at a position, fewer only at the end."""
    file.seek(position)
    return file.read(size)


def size_of(file: BinaryIO) -> int:
    """Bytes of a file."""
    return file.seek(0, os.SEEK_END)
