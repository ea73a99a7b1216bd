"""Streams that only those with the key can hear, change or forge: SRTP and SRTCP (RFC 3711), of the package pylibsrtp.

AES-128 in counter mode, tags of 80 bits, and a window in which nothing counts twice. Both ends have the same 30 bytes,
a master key of 16 and a salt of 14; streams of one key differ by their number, drawn at random.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from ..errors import BitstreamError, NetworkError

KEY_VARIABLE = "EDGECODEC_KEY"
SEALED_BYTES = 10  # that a packet of sound grows by
_KEY_BYTES = 30
_LONGEST_FILE = 1 << 12
_MAKE_ONE = "make one with: head -c 30 /dev/urandom | base64 > FILE"


class NoSeal:
    """Of open streams: datagrams go as they are."""

    def close(self, datagram: bytes) -> bytes:
        """A datagram of ours."""
        return datagram

    def open(self, datagram: bytes) -> bytes:
        """A datagram of the other end's, or of anybody's."""
        return datagram


class Seal(NoSeal):
    """Seals datagrams, and opens those that the other end sealed; belongs to one thread.

    Args:
        key: 30 bytes.

    Raises:
        NetworkError: pylibsrtp is not installed.
    """

    def __init__(self, key: bytes) -> None:
        try:
            import pylibsrtp
        except ImportError:
            raise NetworkError("a key needs pylibsrtp: pip install 'edgecodec[secure]'") from None
        policy, self._refusal = pylibsrtp.Policy, pylibsrtp.Error
        self._out = pylibsrtp.Session(policy(key=key, ssrc_type=policy.SSRC_ANY_OUTBOUND))
        self._in = pylibsrtp.Session(policy(key=key, ssrc_type=policy.SSRC_ANY_INBOUND))

    def close(self, datagram: bytes) -> bytes:
        """A datagram of ours, sealed."""
        sealed: bytes = self._out.protect_rtcp(datagram) if is_control(datagram) else self._out.protect(datagram)
        return sealed

    def open(self, datagram: bytes) -> bytes:
        """A sealed datagram as it was.

        Raises:
            BitstreamError: one that nobody with the key sent, that was changed, or that came before.
        """
        try:
            opened: bytes = self._in.unprotect_rtcp(datagram) if is_control(datagram) else self._in.unprotect(datagram)
        except self._refusal:
            raise BitstreamError("not authentic, or a second time") from None
        return opened


def is_control(datagram: bytes) -> bool:
    """Whether a datagram is RTCP, told from RTP by its second byte (RFC 5761)."""
    return len(datagram) > 1 and 192 <= datagram[1] <= 223


def find_key(path: Path | None) -> bytes | None:
    """The key of a file, else that of the variable EDGECODEC_KEY, else None: base64 or hexadecimal, in one line.

    Raises:
        NetworkError: a file that cannot be read, or no key of 30 bytes; the message never shows it.
    """
    if path is None:
        text, where = os.environ.get(KEY_VARIABLE), KEY_VARIABLE
    else:
        where = str(path)
        try:
            with path.open("rb") as file:
                text = file.read(_LONGEST_FILE).decode("ascii", "replace")
        except OSError as error:
            raise NetworkError(f"{path}: {error.strerror}; {_MAKE_ONE}") from None
    if text is None:
        return None
    key = _decoded("".join(text.split()))
    if key is None:
        raise NetworkError(f"{where}: a key is 30 random bytes in base64 or hexadecimal; {_MAKE_ONE}")
    return key


def _decoded(text: str) -> bytes | None:
    try:
        key = bytes.fromhex(text) if len(text) == 2 * _KEY_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return key if len(key) == _KEY_BYTES else None
