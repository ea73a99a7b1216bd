"""Arrays from `.npz` files of strangers: nothing is unpickled, and nothing is allocated that was not counted before.

An npz is a zip of `.npy` members, stored or deflated; a member is a header of text and the numbers. Of a zip's
directory only `zipfile` knows the ways; what it says of a size is believed once that many bytes are allowed, and no
more are inflated.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BitstreamError, one_line

MOST_MEMBERS = 1024
MOST_DIMENSIONS = 8
HEADER_BYTES = 4096  # of one array; numpy writes 118 for most

_MAGIC = b"\x93NUMPY"
_LENGTHS = {1: "<H", 2: "<I"}  # of the header, by the format's version
_DTYPE = re.compile(r"[<>|=]?([biuf]\d{1,2}|U\d{1,4})")


def read_npz(data: bytes, wanted: Callable[[str], bool], limit: int) -> dict[str, NDArray[Any]]:
    """The arrays of an npz whose names are wanted; the others are not looked at.

    Raises:
        BitstreamError: no npz of plain arrays, or arrays of more than `limit` bytes in all.
    """
    arrays: dict[str, NDArray[Any]] = {}
    left = limit
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:
                raise BitstreamError(f"no npz of plain arrays: more than {MOST_MEMBERS} of them")
            for info in members:
                name = info.filename.removesuffix(".npy")
                if not wanted(name):
                    continue
                if name in arrays:
                    raise ValueError(f"two arrays named {name[:60]!r}")
                if info.file_size > left:
                    raise BitstreamError(f"{name[:60]!r} makes it larger than {limit >> 20} MiB")
                left -= info.file_size
                arrays[name] = _array(_content(archive, info))
    # What zipfile and zlib raise on damage: it is not documented, and found with the mutated files of tests/fuzz.
    except (
        *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError),
        *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError),
    ) as error:
        raise BitstreamError(f"no npz of plain arrays: {one_line(error, 120) or type(error).__name__}") from None
    return arrays


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytearray:
    """The bytes of a member, which are as many as its directory says."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("a compression other than deflate")
    with archive.open(info) as file:  # inflates no more than it is asked for
        content = bytearray(file.read(info.file_size + 1))
    if len(content) != info.file_size:
        raise ValueError(f"{len(content)} bytes where {info.file_size} were announced")
    return content


def _array(data: bytearray) -> NDArray[Any]:
    """The array that a `.npy` holds, in the memory of its bytes."""
    version, head = (data[6], 8) if data[:6] == _MAGIC and len(data) > 12 else (0, 0)
    if version not in _LENGTHS or data[7]:
        raise ValueError(f"npy version {version}")
    start = head + struct.calcsize(_LENGTHS[version])
    (length,) = struct.unpack_from(_LENGTHS[version], data, head)
    if length > HEADER_BYTES or start + length > len(data):
        raise ValueError(f"an array's header of {length} bytes")
    dtype, shape, fortran = _header(data[start : start + length].decode("latin-1"))
    if math.prod(shape) * dtype.itemsize != len(data) - start - length:
        raise ValueError("an array's header contradicts its bytes")
    flat = np.frombuffer(data, dtype, offset=start + length)
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    native: NDArray[Any] = array.astype(dtype.newbyteorder("="), order="C", copy=False)
    return native


def _header(text: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Type, shape and order, from the text of a Python dict: no Python reads it."""
    descr = re.search(r"['\"]descr['\"]\s*:\s*['\"]([^'\"]{1,16})['\"]", text)
    fortran = re.search(r"['\"]fortran_order['\"]\s*:\s*(True|False)\b", text)
    shape = re.search(r"['\"]shape['\"]\s*:\s*\(([\d,\s]*)\)", text, re.ASCII)
    if descr is None or fortran is None or shape is None or not _DTYPE.fullmatch(descr[1]):
        raise ValueError("an array that is not of plain numbers")
    sides = [side for side in shape[1].split(",") if side.strip()]
    if len(sides) > MOST_DIMENSIONS or max((len(side.strip()) for side in sides), default=0) > 18:
        raise ValueError("an array of no possible shape")
    return np.dtype(descr[1]), tuple(int(side) for side in sides), fortran[1] == "True"
