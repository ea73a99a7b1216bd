"""What the commands make of .edgc files of version 2: models, damage, parts, trimming, facts."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec.bitstream import Header, Reader, Writer
from edgecodec.files.decoding import packets_of
from edgecodec.files.edgc import chunk_coder, make_header
from edgecodec.files.transcode import decode_file
from edgecodec.files.trim import trim_file
from edgecodec.packets import Packet

HERE = Path(__file__).parent
SECONDS = 6
CHUNK = 255 * 16  # samples: of 500 frames a second, a chunk holds 255


@pytest.fixture(scope="module")
def audio(voice) -> np.ndarray:
    return voice(SECONDS * 8000)


@pytest.fixture(params=["even", "told"])
def folder(request: pytest.FixtureRequest, tiny: Path, told: Path) -> Path:
    """A bundle without an entropy model, and one with."""
    return tiny if request.param == "even" else told


@pytest.fixture
def edgc(run, folder: Path, audio: np.ndarray, tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", audio, 8000, subtype="FLOAT")
    assert run("encode", "a.wav", "a.edgc", "--bundle", folder, "-q", 4).exit_code == 0
    return tmp_path / "a.edgc"


def decoded(run, folder: Path, *args: object, code: int = 0) -> np.ndarray:
    result = run("decode", *args, "--bundle", folder, "-f")
    assert result.exit_code == code, result.output
    return soundfile.read(args[1], dtype="float32", always_2d=True)[0].T


def borders(path: Path) -> list[int]:
    """The byte at which each chunk begins, and the end record."""
    with path.open("rb") as file:
        reader = Reader(file)
        form, at = reader.header.chunk_format, len(reader.header.to_bytes())
        found = [at]
        for chunk in reader:
            found.append(at := at + form.size(chunk, chunk.stages))
    return found


# --- the entropy model


def test_files_decode_to_what_the_codec_decodes(run, folder: Path, edgc: Path, audio: np.ndarray) -> None:
    codec = edgecodec.load(folder)
    expected = codec.decode(codec.encode(audio, stages=4), samples=len(audio))[0]
    assert np.abs(decoded(run, folder, "a.edgc", "b.wav") - expected).max() < 1e-4


def test_the_model_belongs_to_the_file(run, tiny: Path, told: Path, audio: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", audio, 8000)
    for name, bundle in (("even", tiny), ("told", told)):
        assert run("encode", "a.wav", f"{name}.edgc", "-q", 3, "--bundle", bundle).exit_code == 0
    assert run("decode", "even.edgc", "a2.wav", "--bundle", told).exit_code == 0  # it needs no model
    result = run("decode", "told.edgc", "b.wav", "--bundle", tiny)
    assert result.exit_code == 1 and "that bundle 'tiny' does not have" in result.stderr
    assert json.loads(run("info", "told.edgc", "--json").stdout)["entropy_model"] is not None
    result = run("codes", "told.edgc", "c.npz")
    assert result.exit_code == 1 and "not shipped; give its folder with --bundle" in result.stderr
    assert run("codes", "told.edgc", "c.npz", "--bundle", told).exit_code == 0
    assert run("codes", "even.edgc", "d.npz").exit_code == 0
    assert np.array_equal(np.load("c.npz")["codes"], np.load("d.npz")["codes"])


def test_frames_of_different_stage_counts(run, folder: Path, audio: np.ndarray, tmp_path: Path) -> None:
    """-1 in the arrays, there and back, and the sound is that of the codes."""
    codec = edgecodec.load(folder)
    codes = codec.encode(audio, stages=4)
    codes = codec.manifest.layout.cut(codes, np.random.default_rng(0).integers(1, 5, (1, codes.shape[2])))
    np.savez(tmp_path / "c.npz", codes=codes, samples=len(audio))
    assert run("codes", "c.npz", "c.edgc", "--bundle", folder).exit_code == 0
    assert run("codes", "c.edgc", "d.npz", "--bundle", folder).exit_code == 0
    again = np.load("d.npz")["codes"]
    assert again.dtype == np.int16 and np.array_equal(again, codes)
    assert run("codes", "c.edgc", "two.npz", "-q", 2, "--bundle", folder).exit_code == 0
    assert np.array_equal(np.load("two.npz")["codes"], codes[:, :2])
    sound = decoded(run, folder, "c.edgc", "c.wav")
    assert np.abs(sound - codec.decode(codes, samples=len(audio))[0]).max() < 1e-4
    facts = json.loads(run("info", "c.edgc", "--json").stdout)
    assert facts["frames_of_stages"] == {
        str(n): int((codec.manifest.layout.counts(codes) == n).sum()) for n in range(1, 5)
    }


def test_chunks_come_out_of_a_pipe_as_they_go_in(folder: Path, edgc: Path, tmp_path: Path) -> None:
    """Sound is there before the end of the file is written: nobody waits for more chunks than the next ones."""
    data, starts = edgc.read_bytes(), borders(edgc)
    command = [str(Path(sys.executable).parent / "edgecodec"), "decode", "-", "-", "--bundle", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(data[: starts[5]])
        process.stdin.flush()
        heard = process.stdout.read(44 + 2 * 2 * CHUNK)
        assert len(heard) == 44 + 4 * CHUNK
        process.stdin.write(data[starts[5] :])
        process.stdin.close()
        rest = process.stdout.read()
        process.stderr.read()
    assert len(heard) + len(rest) == 44 + 2 * 8000 * SECONDS


# --- damage


def test_what_is_lost_is_as_long_as_it_was(run, folder: Path, edgc: Path) -> None:
    whole = decoded(run, folder, "a.edgc", "whole.wav")
    data, starts = edgc.read_bytes(), borders(edgc)
    count = len(starts) - 1
    for lost in ([0], [3], [count - 1], [1, 2, 5], [count - 2, count - 1], list(range(count))):
        bad = bytearray(data)
        for i in lost:
            bad[starts[i] + 9] ^= 1
        Path("bad.edgc").write_bytes(bad)
        result = run("decode", "bad.edgc", "bad.wav", "--bundle", folder, "-f", "--json")
        assert result.exit_code == 3
        report = json.loads(result.stdout)
        runs = 1 + int((np.diff(lost) > 1).sum())
        assert len(report["damage"]) == runs == len(result.stderr.splitlines())
        assert all("bad.edgc: chunk" in line and "damaged" in line for line in result.stderr.splitlines())
        sound = soundfile.read("bad.wav", dtype="float32", always_2d=True)[0].T
        assert sound.shape == whole.shape
        settled = np.ones(sound.shape[1], bool)  # the decoder's memory is a frame; codes lie a frame late
        for i in lost:
            settled[max(0, i * CHUNK - 64) : (i + 1) * CHUNK + 64] = False
        assert np.abs(sound - whole)[:, settled].max(initial=0) < 1e-3
        refused = run("decode", "bad.edgc", "strict.wav", "--bundle", folder, "--strict")
        assert refused.exit_code == 1 and "refused (--strict)" in refused.stderr
        assert len(json.loads(run("info", "bad.edgc", "--json").stdout)["damage"]) == runs
        assert run("codes", "bad.edgc", "bad.npz", "--bundle", folder).exit_code == 1
        assert run("trim", "bad.edgc", "cut.edgc", "-q", 2).exit_code == 1
        assert not Path("cut.edgc").exists() and not Path("strict.wav").exists()


def test_many_damages_take_few_lines(run, tiny: Path, tmp_path: Path, voice) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile(voice(8000), 40), 8000)
    run("encode", "a.wav", "a.edgc", "--bundle", tiny, "-q", 1)
    data = bytearray((tmp_path / "a.edgc").read_bytes())
    for start in borders(tmp_path / "a.edgc")[:-1:2]:
        data[start + 9] ^= 1
    (tmp_path / "a.edgc").write_bytes(data)
    result = run("decode", "a.edgc", "b.wav", "--bundle", tiny)
    assert result.exit_code == 3 and "and damage in 20 more places" in result.stderr
    assert len(result.stderr.splitlines()) == 21
    assert soundfile.info(tmp_path / "b.wav").frames == 320_000


def test_version_1_is_decoded_up_to_the_damage(run, tiny: Path, codec) -> None:
    data = bytearray((HERE / "version1.edgc").read_bytes())
    Path("a.edgc").write_bytes(data)
    whole = decoded(run, tiny, "a.edgc", "a.wav")
    assert whole.shape == (2, 5512)
    data[500] ^= 1
    Path("b.edgc").write_bytes(data)
    part = decoded(run, tiny, "b.edgc", "b.wav", code=3)
    assert 1000 < part.shape[1] < 5512
    assert np.abs(part[:, :-100] - whole[:, : part.shape[1] - 100]).max() < 1e-3


# --- parts


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000])
@pytest.mark.parametrize(("start", "duration"), [(0, 1), (0.3, 0.2), (2.5, 1.25), (3.1, None), (5.9, 2), (5.9999, 1)])
def test_a_part_is_what_the_whole_has_there(
    run, told: Path, tmp_path: Path, voice, rate: int, start: float, duration: float | None
) -> None:
    audio = np.stack([voice(SECONDS * rate), voice(SECONDS * rate, 1)], axis=1)
    soundfile.write(tmp_path / "a.wav", audio, rate, subtype="FLOAT")
    run("encode", "a.wav", "a.edgc", "--bundle", told, "-q", 4)
    whole = decoded(run, told, "a.edgc", "whole.wav")
    options = ["--start", start] + ([] if duration is None else ["--duration", duration])
    part = decoded(run, told, "a.edgc", "part.wav", *options)
    first = round(start * rate)
    end = SECONDS * rate if duration is None else min(first + round(duration * rate), SECONDS * rate)
    assert part.shape == (2, end - first)
    assert np.abs(part - whole[:, first:end]).max() < 1e-3
    piped = run("decode", "-", "-", "--bundle", told, *options, stdin=Path("a.edgc").read_bytes())
    assert np.frombuffer(piped.stdout_bytes[44:], "<i2").tolist() == np.frombuffer(
        Path("part.wav").read_bytes()[44:], "<i2").tolist()  # fmt: skip


def test_a_part_of_version_1(run, tiny: Path) -> None:
    Path("a.edgc").write_bytes((HERE / "version1.edgc").read_bytes())
    whole = decoded(run, tiny, "a.edgc", "whole.wav")
    part = decoded(run, tiny, "a.edgc", "part.wav", "--start", 0.3, "--duration", 0.1)
    assert np.abs(part - whole[:, 3308 : 3308 + 1102]).max() < 1e-3


def test_parts_that_are_not_there(run, folder: Path, edgc: Path) -> None:
    for options, said in ((["--start", 6], "ends at 6.00 s"), (["--start", 1e9], "ends at 6.00 s")):
        result = run("decode", "a.edgc", "b.wav", "--bundle", folder, *options)
        assert result.exit_code == 1 and said in result.stderr and result.stderr.count("\n") == 1
    for options in (["--start", -1], ["--duration", -1]):
        assert run("decode", "a.edgc", "b.wav", "--bundle", folder, *options).exit_code == 2
    for options in (["--duration", 0], ["--start", "nan"], ["--start", "inf"]):
        assert run("decode", "a.edgc", "b.wav", "--bundle", folder, *options).exit_code in (1, 2)
    assert not Path("b.wav").exists()


def test_a_part_leaves_the_rest_unread(run, told: Path, edgc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage before and behind a part is not its business, and few chunks are decoded."""
    bad, starts = bytearray(edgc.read_bytes()), borders(edgc)
    whole = decoded(run, told, "a.edgc", "whole.wav") if json.loads(
        run("info", "a.edgc", "--json").stdout)["entropy_model"] else None  # fmt: skip
    for i in (0, 2, 11):
        bad[starts[i] + 12] ^= 1
    Path("bad.edgc").write_bytes(bad)
    report = decode_file("bad.edgc", "part.wav", codec=edgecodec.load(told), start=3.0, duration=0.5)
    assert report.damage == () and report.seconds == 0.5
    if whole is not None:
        part = soundfile.read("part.wav", dtype="float32")[0]
        assert np.abs(part - whole[0, 24_000:28_000]).max() < 1e-3


# --- trimming


def test_trimming_needs_no_bundle_and_gives_the_first_stages(run, folder: Path, edgc: Path, audio: np.ndarray) -> None:
    codec = edgecodec.load(folder)
    result = run("trim", "a.edgc", "two.edgc", "-q", 2, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["stages"] == 2
    expected = codec.decode(codec.encode(audio, stages=2), samples=len(audio))[0]
    assert np.abs(decoded(run, folder, "two.edgc", "b.wav") - expected).max() < 1e-4
    piped = run("trim", "-", "-", "-q", 2, stdin=edgc.read_bytes())
    assert piped.stdout_bytes == Path("two.edgc").read_bytes()
    assert run("trim", "a.edgc", "nine.edgc", "-q", 9).exit_code == 0
    assert Path("nine.edgc").read_bytes() == edgc.read_bytes()
    for options in ([], ["-q", 2, "-b", 3], ["-q", 0], ["-b", 0], ["-b", -1]):
        assert run("trim", "a.edgc", "x.edgc", *options).exit_code == 2
    assert run("trim", "a.wav", "x.edgc", "-q", 1).exit_code == 1
    assert "exists" in run("trim", "a.edgc", "two.edgc", "-q", 1).stderr


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bitrate", [2.2, 3, 4.5, 6, 7])
def test_trimming_to_a_bitrate(run, folder: Path, tmp_path: Path, voice, channels: int, bitrate: float) -> None:
    """At most what was asked for, heads and all; chunks beside each other differ by one stage."""
    soundfile.write(tmp_path / "a.wav", np.stack([voice(160_000, i) for i in range(channels)], axis=1), 8000)
    run("encode", "a.wav", "a.edgc", "--bundle", folder, "-q", 4)
    result = run("trim", "a.edgc", "b.edgc", "-b", bitrate, "--json")
    assert result.exit_code == 0, result.output
    kbps = json.loads(result.stdout)["file_kbps"]
    assert kbps == pytest.approx(Path("b.edgc").stat().st_size * 8 / 20 / 1000)
    with Path("b.edgc").open("rb") as file:
        stages = [chunk.stages for chunk in Reader(file)]
    assert np.abs(np.diff(stages[2:])).max() <= 1
    largest_step = 2000 / 1000 * channels * 255 / 500 / 20  # kbps of one stage in one chunk, over 20 s
    whole = Path("a.edgc").stat().st_size * 8 / 20 / 1000
    assert min(whole, bitrate * channels - 1.5 * largest_step) <= kbps <= bitrate * channels
    assert decoded(run, folder, "b.edgc", "b.wav").shape == (channels, 160_000)


def test_version_1_is_trimmed_too(run, tiny: Path) -> None:
    (Path.cwd() / "a.edgc").write_bytes((HERE / "version1.edgc").read_bytes())
    assert run("trim", "a.edgc", "b.edgc", "-q", 2).exit_code == 0
    with Path("a.edgc").open("rb") as before, Path("b.edgc").open("rb") as after:
        first, second = Reader(before), Reader(after)
        assert first.header == second.header
        for packet, cut in zip(first, second, strict=True):
            assert np.array_equal(packet.codes[:, :2], cut.codes)
    assert trim_file("a.edgc", "c.edgc", bitrate=3.0).file_kbps <= 6
    assert decoded(run, tiny, "c.edgc", "c.wav").shape == (2, 5512)


def test_mixed_chunks_are_trimmed(folder: Path, tmp_path: Path, audio: np.ndarray) -> None:
    codec = edgecodec.load(folder)
    codes = codec.encode(audio, stages=4)
    counts = np.random.default_rng(0).integers(1, 5, (1, codes.shape[2]))
    codes = codec.manifest.layout.cut(codes, counts)
    header = make_header(codec, 8000, 1, 4)
    coder = chunk_coder(codec, header)
    with (tmp_path / "a.edgc").open("wb") as file, Writer(file, header) as writer:
        for number, start in enumerate(range(0, codes.shape[2], 255)):
            writer.write(coder.encode([Packet(number, codes[:, :, start : start + 255])])[0])
        writer.samples = len(audio)
    trim_file(str(tmp_path / "a.edgc"), str(tmp_path / "b.edgc"), stages=2)
    packets = list(packets_of(Reader(io.BytesIO((tmp_path / "b.edgc").read_bytes())), coder))
    found = np.concatenate([packet.codes for packet in packets], axis=2)
    assert np.array_equal(found, codec.manifest.layout.cut(codes, np.minimum(counts, 2))[:, :2])


# --- facts


def test_info(run, folder: Path, edgc: Path) -> None:
    facts = json.loads(run("info", "a.edgc", "--json").stdout)
    assert (facts["version"], facts["chunks"], facts["frames"]) == (2, len(borders(edgc)) - 1, SECONDS * 500 + 1)
    assert facts["frames_of_stages"] == {"4": SECONDS * 500 + 1}
    assert facts["file_kbps"] == pytest.approx(edgc.stat().st_size * 8 / SECONDS / 1000)
    assert facts["payload_kbps"] < facts["peak_kbps"] < 1.1 * facts["file_kbps"]
    fixed = (SECONDS * 500 + 1) * 16 / 8
    assert facts["entropy_saving"] == pytest.approx(1 - facts["payload_kbps"] * 125 * SECONDS / fixed, abs=1e-6)
    assert abs(facts["entropy_saving"]) < 0.3
    text = run("info", "a.edgc").stdout
    assert "entropy saving" in text and "peak kbps" in text
    Path("v1.edgc").write_bytes((HERE / "version1.edgc").read_bytes())
    facts = json.loads(run("info", "v1.edgc", "--json").stdout)
    assert (facts["version"], facts["chunks"], facts["entropy_saving"]) == (1, 5, 0)
    assert facts["frames_of_stages"] == {"2": 120, "3": 142, "4": 240}


def test_the_header_names_the_model(folder: Path) -> None:
    import hashlib

    codec = edgecodec.load(folder)
    header = make_header(codec, 8000, 1, 4)
    path = folder / "entropy.npz"
    model = hashlib.sha256(path.read_bytes()).digest()[:8] if path.exists() else bytes(8)
    data = header.to_bytes()
    assert data[-12:-4] == header.model == model
    assert isinstance(header, Header) and data[4] == 2


# --- bundles that look ahead, in stereo, with lines beside the stages


def test_wide_files_lose_and_give_parts_in_place(run, tmp_path: Path, voice) -> None:
    wide = HERE / "wide_bundle"
    soundfile.write(tmp_path / "a.wav", np.stack([voice(SECONDS * 8000, i) for i in range(3)], axis=1), 8000)
    assert run("encode", "a.wav", "a.edgc", "--bundle", wide, "-q", 4).exit_code == 0
    whole = decoded(run, wide, "a.edgc", "whole.wav")
    part = decoded(run, wide, "a.edgc", "part.wav", "--start", 2.7, "--duration", 1)
    assert np.abs(part - whole[:, 21_600:29_600]).max() < 1e-3
    data, starts = bytearray((tmp_path / "a.edgc").read_bytes()), borders(tmp_path / "a.edgc")
    for i in (0, 4, len(starts) - 2):
        data[starts[i] + 20] ^= 1
    (tmp_path / "a.edgc").write_bytes(data)
    sound = decoded(run, wide, "a.edgc", "bad.wav", code=3)
    assert sound.shape == whole.shape
    assert np.abs(sound - whole)[:, 6 * CHUNK : 9 * CHUNK].max() < 1e-3
