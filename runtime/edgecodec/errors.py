"""The errors of edgecodec: one tree, so that `except EdgecodecError` catches all that its packages raise on purpose.

    EdgecodecError
    ├── BundleError      a bundle that is missing, altered, newer, or contradicts itself
    ├── BitstreamError   codes, a packet or an .edgc file that is damaged, truncated, or made with another bundle
    ├── BitrateError     a bitrate or stage count that the bundle does not offer (also a ValueError)
    ├── AudioError       audio that cannot be read, written or encoded
    │   └── DataError    audio that cannot be trained on, or scored
    ├── DeviceError      a device that was asked for and cannot be had
    │   └── StalledError a device that no longer answers
    ├── NetworkError     an address that is none, or a port that cannot be had
    ├── ConfigError      a training configuration that cannot be used (also a ValueError)
    ├── CheckpointError  a training checkpoint that cannot be used
    └── ExportError      a checkpoint that cannot be exported, or a bundle that failed its verification

Messages say what is wrong, where, and what to do about it. `exit_code` is what a command ends with: 2 where the call
itself was wrong, else 1. (3, of `decode`, is no error: the output is there, and the input was damaged.)
"""

from __future__ import annotations

from typing import ClassVar


class EdgecodecError(Exception):
    """Base of every error that edgecodec raises on purpose."""

    exit_code: ClassVar[int] = 1


class BundleError(EdgecodecError):
    """A bundle that is missing, altered, newer than this version, or contradicts itself."""


class BitstreamError(EdgecodecError):
    """Codes, a packet or an .edgc file that is damaged, truncated, or made with another bundle."""


class BitrateError(EdgecodecError, ValueError):
    """A bitrate or stage count that the bundle does not offer."""

    exit_code = 2


class AudioError(EdgecodecError):
    """Audio that cannot be read, written or encoded."""


class DataError(AudioError):
    """Audio that cannot be trained on, or scored; the message names the file."""


class DeviceError(EdgecodecError):
    """A device that was asked for and cannot be had."""


class StalledError(DeviceError):
    """A device that never returned from a call; the thread that waits for it cannot be ended."""


class NetworkError(EdgecodecError):
    """An address that is none, or a port that cannot be had."""


class ConfigError(EdgecodecError, ValueError):
    """A training configuration that cannot be used; the message names the key."""

    exit_code = 2


class CheckpointError(EdgecodecError):
    """A training checkpoint that cannot be used; the message names it."""


class ExportError(EdgecodecError):
    """A checkpoint that cannot be exported, or a bundle that failed its verification; nothing was written."""


class ScaleWarning(UserWarning):
    """Audio in the scale of integers, where [-1, 1] is meant."""


class DamageWarning(UserWarning):
    """Audio that can be read, and yet may not be what was recorded."""


def reason_of(error: BaseException, most: int = 1000) -> str:
    """What an error says, in one line; of the system's errors without the path."""
    return one_line((error.strerror if isinstance(error, OSError) else None) or error, most)


def printable(text: str) -> str:
    """A text with "?" for whatever could write to the terminal that it is shown on."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def one_line(what: object, most: int = 300) -> str:
    """What another's error or a stranger's text says, printable, in one line of at most so many letters."""
    return printable(" ".join(str(what).split())[:most])
