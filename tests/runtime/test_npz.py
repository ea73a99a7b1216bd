"""Arrays of strangers: counted before they are allocated, and refused in one line."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from edgecodec.errors import BitstreamError
from edgecodec.npz import MOST_MEMBERS, read_npz

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
LIMIT = 8 << 20


def everything(name: str) -> bool:
    return True


def zipped(members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def headed(text: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + body


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(save) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "audio": rng.standard_normal((1, 2, 301)).astype(np.float32), "codes": rng.integers(0, 9, (1, 4, 20)),
        "fortran": np.asfortranarray(rng.standard_normal((3, 4))), "big": rng.integers(0, 9, 7).astype(">i4"),
        "text": np.array("speech"), "number": np.array(7), "flags": np.array([True, False]), "none": np.zeros((0, 3)),
    }  # fmt: skip
    file = io.BytesIO()
    save(file, **arrays)
    found = read_npz(file.getvalue(), everything, LIMIT)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found[name], array) and found[name].shape == array.shape
        assert found[name].dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no npz of plain arrays"),
        (zipped({"a.npy": npy(np.zeros(LIMIT // 4, np.float32))}), "'a' makes it larger than 8 MiB"),
        (zipped({f"{i}.npy": npy(np.zeros(LIMIT // 40, np.float32)) for i in range(11)}), "'9' makes it larger"),
        (zipped({"a.npy": npy(np.zeros(3))}, zipfile.ZIP_BZIP2), "other than deflate"),
        (zipped({f"{i}.npy": b"" for i in range(MOST_MEMBERS + 1)}), "more than 1024"),
        (zipped({"a.npy": b"\x93NUMPY"}), "npy version 0"),
        (zipped({"a.npy": b"\x93NUMPY\x09\x00" + bytes(100)}), "npy version 9"),
        (zipped({"a.npy": npy(np.zeros(3))[:-1]}), "contradicts its bytes"),
        (zipped({"a.npy": headed("{'descr': 'O', 'fortran_order': False, 'shape': (1,)}", bytes(8))}), "plain numbers"),
        (zipped({"a.npy": headed("{" * 4000)}), "plain numbers"),
        (zipped({"a.npy": headed("{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}" % ("9" * 30))}), "no poss"),
        (zipped({"a.npy": headed("{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}" % ("1," * 9))}), "no poss"),
        (zipped({"a.npy": headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}")}), "plain numbers"),
        (zipped({"a.npy": headed("{'descr': '<f9', 'fortran_order': False, 'shape': (1,)}", bytes(9))}), "no npz"),
        (zipped({"a.npy": npy(np.zeros(3)), "a": npy(np.zeros(3))}), "two arrays named 'a'"),
    ],
)  # fmt: skip
def test_others_are_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message) as refusal:
        read_npz(data, everything, LIMIT)
    assert str(refusal.value).isprintable()


def test_a_small_file_takes_little_memory() -> None:
    """2.5 MB of it wanted 2.6 GB: every array for itself was below the limit."""
    data = zipped({f"{i}.npy": npy(np.zeros(LIMIT // 4 - 64, np.float32)) for i in range(50)})
    tracemalloc.start()
    with pytest.raises(BitstreamError, match="larger than 8 MiB"):
        read_npz(data, everything, LIMIT)
    assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    tracemalloc.stop()


def test_a_member_is_inflated_as_far_as_it_was_announced() -> None:
    data = bytearray(zipped({"a.npy": npy(np.zeros(LIMIT, np.uint8))}))
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (200).to_bytes(4, "little")  # in place of 8 MiB
    tracemalloc.start()
    with pytest.raises(BitstreamError, match="no npz of plain arrays"):
        read_npz(bytes(data), everything, LIMIT)
    assert tracemalloc.get_traced_memory()[1] < LIMIT // 4
    tracemalloc.stop()


@pytest.mark.parametrize("case", sorted((CORPUS / "npz").glob("golden-*")), ids=lambda path: path.name)
def test_files_that_once_gave_tracebacks(case: Path) -> None:
    with pytest.raises(BitstreamError):
        read_npz(case.read_bytes(), everything, LIMIT)
