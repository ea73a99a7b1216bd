"""Codes of many recordings in one file: WebDataset shards and Parquet, of files and of shards, read back."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import edgecodec
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from edgecodec.commands.main import app
from edgecodec.corpus.code_shards import keys_of
from edgecodec.corpus.inputs import Input
from typer.testing import CliRunner

HERE = Path(__file__).parent
BUNDLE = HERE / "tiny_bundle"
CLIP = HERE.parent / "audio" / "speech_ro.flac"


def encode(source: object, target: Path, *options: str) -> tuple[int, dict]:
    call = [
        "encode",
        str(source),
        str(target),
        "--bundle",
        str(BUNDLE),
        "-q",
        "2",
        "--workers",
        "2",
        "--json",
        *options,
    ]
    result = CliRunner().invoke(app, call)
    assert result.stdout, result.output
    return result.exit_code, json.loads(result.stdout)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    audio, _ = soundfile.read(CLIP, dtype="float32")
    (folder / "deep").mkdir()
    for number in range(6):
        channels = 1 + (number == 4)
        part = np.stack([audio[number * 4000 :][:12_000]] * channels, axis=1)
        soundfile.write(
            folder / ("deep" if number % 2 else "") / f"v1.{number}.wav", part, 8_000
        )  # the rate of the bundle
    (folder / "broken.wav").write_bytes(b"no sound")
    return folder


def test_files_go_into_shards_by_size_and_come_out_as_codes(clips: Path, tmp_path: Path) -> None:
    code, done = encode(clips, tmp_path / "out", "--recursive", "--format", "webdataset")
    assert (code, done["made"], done["failed"]) == (3, 6, 1)
    found = members(tmp_path / "out" / "shard-000000.tar")
    assert sorted(found) == sorted(
        f"{key}.{suffix}"
        for key in ("v1_0", "v1_2", "v1_4", "deep/v1_1", "deep/v1_3", "deep/v1_5")
        for suffix in ("npy", "json")
    )
    codec = edgecodec.load(BUNDLE)
    for number in range(6):
        name = ("deep/" if number % 2 else "") + f"v1.{number}.wav"
        audio, _ = soundfile.read(clips / name, dtype="float32", always_2d=True)
        expected = codec.encode(audio.T, stages=2, effort="fast")
        codes = np.load(io.BytesIO(found[name.removesuffix(".wav").replace("1.", "1_") + ".npy"]), allow_pickle=False)
        assert codes.dtype == np.uint8 and np.array_equal(codes, expected if number == 4 else expected[0])
        facts = json.loads(found[name.removesuffix(".wav").replace("1.", "1_") + ".json"])
        assert facts["source"] == name and facts["samples"] == 12_000
        assert facts["fingerprint"] == codec.fingerprint.hex()
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["shardlist"] == [{"url": "shard-000000.tar", "nsamples": 6}]
    again = encode(clips, tmp_path / "out", "--recursive", "--format", "webdataset")
    assert (again[0], again[1]["kept"], again[1]["failed"]) == (3, 6, 1)  # why one lacks is not forgotten
    one_worker = tmp_path / "one"
    encode(clips, one_worker, "--recursive", "--format", "webdataset", "--workers", "1")
    assert (one_worker / "shard-000000.tar").read_bytes() == (tmp_path / "out" / "shard-000000.tar").read_bytes()


def test_a_shard_goes_in_and_keeps_keys_and_what_is_not_sound(clips: Path, tmp_path: Path) -> None:
    def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))

    for shard in range(2):
        with tarfile.open(tmp_path / f"in-{shard}.tar", "w") as tar:
            for number in range(2):
                add(tar, f"a/{number}.wav", (clips / f"v1.{2 * number}.wav").read_bytes())
                add(tar, f"a/{number}.json", json.dumps({"text": f"line {number}"}).encode())
                add(tar, f"a/{number}.txt", b"words")
            add(tar, "b.flac", b"no sound")
            add(tar, "c.txt", b"alone")
    code, done = encode(tmp_path / "in-{0..1}.tar", tmp_path / "out", "--format", "webdataset")
    assert (code, done["made"], done["failed"]) == (3, 4, 2)
    found = members(tmp_path / "out" / "in-1.tar")
    assert sorted(found) == ["a/0.json", "a/0.npy", "a/0.txt", "a/1.json", "a/1.npy", "a/1.txt"]
    assert found["a/0.txt"] == b"words"
    facts = json.loads(found["a/1.json"])
    assert facts["text"] == "line 1" and facts["samples"] == 12_000 and facts["source"].endswith("a/1.wav")
    with (tmp_path / "in-1.tar").open("r+b") as file:
        file.truncate(9000)
    code, done = encode(tmp_path / "in-1.tar", tmp_path / "out2", "--format", "webdataset")
    assert code == 3 and done["made"] == 0
    assert "a tar that ends within a member" in " ".join(done["failures"].values())
    assert not (tmp_path / "out2" / "in-1.tar").exists()


def test_parquet_holds_the_same(clips: Path, tmp_path: Path) -> None:
    code, done = encode(clips, tmp_path / "out", "--recursive", "--format", "parquet", "--shard-mb", "1")
    assert (code, done["made"]) == (3, 6)
    table = pq.read_table(tmp_path / "out" / "part-000000.parquet").to_pylist()
    encode(clips, tmp_path / "npz", "--recursive", "--format", "npz")
    for row in table:
        with np.load((tmp_path / "npz" / row["source"]).with_suffix(".npz")) as arrays:
            assert np.array_equal(np.array(row["codes"]), arrays["codes"])
            assert (row["samples"], row["channels"]) == (arrays["samples"], arrays["channels"])
    assert len(table) == 6


def test_keys_hold_no_dot_and_are_told_apart() -> None:
    names = ["a.b/c.d.wav", "e.wav", "e.flac", "f"]
    assert keys_of([Input("", name) for name in names]) == ["a.b/c_d", "e_wav", "e_flac", "f"]
