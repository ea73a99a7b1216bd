"""Codes as arrays: out of .edgc and back, and what is refused on the way."""

import io
import zipfile
from pathlib import Path

import edgecodec
import numpy as np
import pytest
from edgecodec.commands.main import app
from typer.testing import CliRunner, Result


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def edgc(clip: Path, tiny: Path, tmp_path: Path) -> Path:
    path = tmp_path / "clip.edgc"
    result = run("encode", clip, path, "--bundle", tiny, "-q", 3)
    assert result.exit_code == 0, result.output
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_there_and_back_is_the_same_file(edgc: Path, tiny: Path, tmp_path: Path, suffix: str) -> None:
    arrays, again = tmp_path / f"codes{suffix}", tmp_path / "again.edgc"
    for arguments in ((edgc, arrays), (arrays, again, "--bundle", tiny)):
        result = run("codes", *arguments)
        assert result.exit_code == 0, result.output
    assert again.read_bytes() == edgc.read_bytes()


def test_npz_holds_what_encode_gives(edgc: Path, codec: edgecodec.Codec, clip: Path, tmp_path: Path) -> None:
    import soundfile

    assert run("codes", edgc, tmp_path / "c.npz").exit_code == 0
    audio, rate = soundfile.read(clip, dtype="float32")
    with np.load(tmp_path / "c.npz", allow_pickle=False) as file:
        assert np.array_equal(file["codes"], codec.encode(audio, stages=3))
        assert (file["sample_rate"], file["frame_rate"]) == (codec.sample_rate, codec.manifest.frame_rate)
        assert (file["input_rate"], file["samples"]) == (rate, len(audio))
        assert str(file["fingerprint"]) == codec.fingerprint.hex()


def test_fewer_stages_are_the_first_ones(edgc: Path, tmp_path: Path) -> None:
    for n, name in ((3, "all.npz"), (2, "two.npz")):
        assert run("codes", edgc, tmp_path / name, "-q", n).exit_code == 0
    assert np.array_equal(np.load(tmp_path / "two.npz")["codes"], np.load(tmp_path / "all.npz")["codes"][:, :2])
    assert "give -q 3 or less" in run("codes", edgc, tmp_path / "four.npz", "-q", 4).output


def test_codes_of_a_language_model_decode(tiny: Path, codec: edgecodec.Codec, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, codec.manifest.quantizer.codebook_size, (2, 40))
    np.savez(tmp_path / "lm.npz", codes=codes)  # [n_stages, T] and nothing else
    assert run("codes", tmp_path / "lm.npz", tmp_path / "lm.edgc", "--bundle", tiny).exit_code == 0
    result = run("decode", tmp_path / "lm.edgc", tmp_path / "lm.wav", "--bundle", tiny)
    assert result.exit_code == 0, result.output


def bad(name: str, tmp_path: Path, codec: edgecodec.Codec) -> Path:
    path, good = tmp_path / "bad.npz", np.zeros((1, 2, 9), np.int64)
    if name == "pickle":
        np.savez(path, codes=np.array([{"a": 1}], object))
    elif name == "text":
        path.write_text("no codes")
    elif name == "cut":
        np.savez(path, codes=good)
        path.write_bytes(path.read_bytes()[:-30])
    elif name == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                head, {"descr": "<i8", "fortran_order": False, "shape": (1, 2, 1 << 40)}
            )
            archive.writestr("codes.npy", head.getvalue() + bytes(1000))
    else:
        codes = {"float": good + 0.5, "range": good + codec.manifest.quantizer.codebook_size}.get(name, good)
        other = {"other": {"fingerprint": "00" * 8}, "long": {"samples": 10**9}, "rate": {"input_rate": -1}}
        np.savez(path, codes=codes, **other.get(name, {}))
    return path


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("pickle", "no npz of plain arrays"),
        ("text", "neither .npz nor .safetensors"),
        ("cut", "no npz of plain arrays"),
        ("bomb", "no npz of plain arrays"),
        ("float", "codes must be integers"),
        ("range", "codes must lie in"),
        ("other", "made with bundle"),
        ("long", "says 1000000000 samples"),
        ("rate", "no number in range"),
    ],
)
def test_what_is_refused(fault: str, message: str, tiny: Path, codec: edgecodec.Codec, tmp_path: Path) -> None:
    result = run("codes", bad(fault, tmp_path, codec), tmp_path / "out.edgc", "--bundle", tiny)
    assert result.exit_code == 1
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "out.edgc").exists()


@pytest.mark.parametrize(("head", "message"), [(b"ECDC\0\0\0\0", "encodec"), (b"\x93NUMPY\1\0", "is a pickle")])
def test_files_of_other_codecs_are_refused_with_advice(head: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(head + bytes(100))
    for command in (
        ("decode", tmp_path / "other", tmp_path / "o.wav"),
        ("codes", tmp_path / "other", tmp_path / "o.npz"),
    ):
        result = run(*command)
        assert result.exit_code == 1
        assert message in result.output
