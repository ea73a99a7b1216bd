"""Arrays from `.npz` files of strangers: nothing is unpickled, and nothing allocates more than the file holds."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BitstreamError


def read_npz(data: bytes, wanted: Callable[[str], bool], limit: int) -> dict[str, NDArray[Any]]:
    """The arrays of an npz whose names are wanted; the others are not looked at.

    An array's header is believed only as far as its bytes go: numpy allocates what it announces.

    Raises:
        BitstreamError: no npz of plain arrays, or an array of more than `limit` bytes.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if not wanted(name):
                    continue
                if info.file_size > limit:
                    raise BitstreamError(f"{name[:60]!r} is larger than {limit >> 20} MiB")
                arrays[name] = _read_npy(archive.read(info))
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, OverflowError) as error:
        raise BitstreamError(f"no npz of plain arrays: {' '.join(str(error).split())[:120]}") from None
    return arrays


def _read_npy(data: bytes) -> NDArray[Any]:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version}")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError("an array's header contradicts its bytes")
    file.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
