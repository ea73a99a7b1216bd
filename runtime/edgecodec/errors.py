"""The errors of edgecodec: one tree, so that `except EdgecodecError` catches all that the package itself raises.

    EdgecodecError
    ├── BundleError     a bundle that is missing, altered, newer, or contradicts itself
    ├── BitstreamError  a packet or .edgc file that is damaged, truncated, or made with another bundle
    ├── AudioError      audio that cannot be read, written or encoded
    ├── DeviceError     a device that was asked for and cannot be had
    └── BitrateError    a bitrate or stage count that the bundle does not offer (also a ValueError)

Messages say what is wrong, where, and what to do about it.
"""

from __future__ import annotations


class EdgecodecError(Exception):
    """Base of every error that edgecodec raises on purpose."""


class BundleError(EdgecodecError):
    """A bundle that is missing, altered, newer than this version, or contradicts itself."""


class BitstreamError(EdgecodecError):
    """Codes, a packet or an .edgc file that is damaged, truncated, or made with another bundle."""


class AudioError(EdgecodecError):
    """Audio that cannot be read, written or encoded."""


class DeviceError(EdgecodecError):
    """A device that was asked for and cannot be had."""


class BitrateError(EdgecodecError, ValueError):
    """A bitrate or stage count that the bundle does not offer."""
