"""A file or pipe whose bytes can be looked at before they are taken."""

from __future__ import annotations

from typing import Any, Protocol

from .errors import BitstreamError

_PIECE = 1 << 17  # bytes to ask for; a pipe gives what is there


class Readable(Protocol):
    """What is needed of a file or pipe. `read1` and `seek` are used where they are there."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, none at the end."""


class EdgcInput:
    """What is read of a file, `ahead` of what was taken; `position` counts the bytes that were taken.

    Raises:
        BitstreamError: from every method, where the system cannot read or seek.
    """

    def __init__(self, file: Readable) -> None:
        self._file: Any = file
        self.ahead = bytearray()
        self.position = 0
        self.seekable = bool(file.seekable()) if hasattr(file, "seekable") else False

    def fill(self, size: int) -> bool:
        """Wait until there are `size` bytes ahead; false where the file ends before."""
        while len(self.ahead) < size:
            try:
                # read() of a pipe would wait for all that is asked for; without read1(), ask for what is needed.
                if hasattr(self._file, "read1"):
                    piece = self._file.read1(_PIECE)
                else:
                    piece = self._file.read(size - len(self.ahead))
            except OSError as error:
                raise _cannot_read(error) from None
            if not piece:
                return False
            self.ahead += piece
        return True

    def take(self, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end."""
        self.fill(size)
        data = bytes(self.ahead[:size])
        self.drop(len(data))
        return data

    def drop(self, size: int) -> None:
        """Pass over bytes that are ahead."""
        del self.ahead[:size]
        self.position += size

    def go_to(self, position: int) -> None:
        """Go on at a byte of a file that is seekable; it may lie behind the end."""
        away = position - self.position
        if 0 <= away <= len(self.ahead):
            self.drop(away)
            return
        try:
            self._file.seek(away - len(self.ahead), 1)
        except OSError as error:
            raise _cannot_read(error) from None
        self.ahead.clear()
        self.position = position


def _cannot_read(error: OSError) -> BitstreamError:
    return BitstreamError(f"cannot read: {error.strerror or error}")
