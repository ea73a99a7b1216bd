"""Audio files of any rate and channel count to .edgc and back, by the command line: what works, what is refused."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec.files.output import open_output
from edgecodec.files.wav import WavWriter


def encode(run, tiny: Path, source: object, target: object = "out.edgc", *more: object, **keywords):
    return run("encode", source, target, "--bundle", tiny, *more, **keywords)


def decode(run, tiny: Path, source: object, target: object = "out.wav", *more: object, **keywords):
    return run("decode", source, target, "--bundle", tiny, *more, **keywords)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("samples", [1, 4001])
def test_rate_channels_and_length_are_restored(
    run, tiny: Path, tmp_path: Path, voice, rate: int, channels: int, samples: int
) -> None:
    audio = np.stack([voice(samples, seed) for seed in range(channels)], axis=1)
    soundfile.write(tmp_path / "in.wav", audio, rate)
    assert encode(run, tiny, "in.wav").exit_code == 0
    assert decode(run, tiny, "out.edgc").exit_code == 0
    decoded, decoded_rate = soundfile.read(tmp_path / "out.wav", always_2d=True)
    assert decoded_rate == rate
    assert decoded.shape == audio.shape


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 3840, 3841, 7679, 7680, 70_000])
def test_lengths_around_frames_packets_and_blocks(run, tiny: Path, tmp_path: Path, voice, samples: int) -> None:
    soundfile.write(tmp_path / "in.wav", voice(samples), 8000)
    assert encode(run, tiny, "in.wav").exit_code == 0
    assert decode(run, tiny, "out.edgc").exit_code == 0
    assert soundfile.info(tmp_path / "out.wav").frames == samples


def test_files_decode_to_what_the_codec_decodes(run, tiny: Path, tmp_path: Path, voice, codec) -> None:
    soundfile.write(tmp_path / "in.wav", voice(9000), 8000, subtype="FLOAT")
    assert encode(run, tiny, "in.wav", "out.edgc", "-q", 4).exit_code == 0
    assert decode(run, tiny, "out.edgc").exit_code == 0
    decoded, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    expected = codec.decode(codec.encode(voice(9000), stages=4), samples=9000)[0, 0]
    assert np.abs(decoded - np.clip(expected, -1, 1)).max() < 1e-4


def test_resampled_audio_stays_in_place(run, tiny: Path, tmp_path: Path, voice) -> None:
    t = np.arange(44100) / 44100
    audio = 0.3 * np.sin(2 * np.pi * 200 * t) * np.sin(2 * np.pi * 1.5 * t)
    soundfile.write(tmp_path / "in.wav", audio, 44100)
    assert run("roundtrip", "in.wav", "out.wav", "-q", 4, "--bundle", tiny).exit_code == 0
    decoded, _ = soundfile.read(tmp_path / "out.wav")
    correlation = np.correlate(decoded, audio[500:-500])
    assert abs(int(correlation.argmax()) - 500) <= 3


def test_mono_mixes_down(run, tiny: Path, tmp_path: Path, voice) -> None:
    soundfile.write(tmp_path / "in.wav", np.stack([voice(800), voice(800, 1)], axis=1), 8000)
    result = encode(run, tiny, "in.wav", "out.edgc", "--mono", "--json")
    assert json.loads(result.stdout)["channels"] == 1
    assert decode(run, tiny, "out.edgc").exit_code == 0
    assert soundfile.info(tmp_path / "out.wav").channels == 1


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".aiff", ".mp3"])
def test_other_formats(run, tiny: Path, tmp_path: Path, voice, suffix: str) -> None:
    soundfile.write(tmp_path / f"in{suffix}", voice(16000), 16000)
    assert encode(run, tiny, f"in{suffix}").exit_code == 0
    result = decode(run, tiny, "out.edgc", f"out{suffix}")
    assert result.exit_code == 0
    assert soundfile.info(tmp_path / f"out{suffix}").samplerate == 16000
    if suffix != ".mp3":
        assert soundfile.info(tmp_path / f"out{suffix}").frames == 16000


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_pipes_carry_wav(run, tiny: Path, tmp_path: Path, voice, subtype: str, form: str) -> None:
    audio = np.stack([voice(2000), voice(2000, 1)], axis=1)
    soundfile.write(tmp_path / "in.wav", audio, 16000, subtype=subtype, format=form)
    piped = encode(run, tiny, "-", "-", stdin=(tmp_path / "in.wav").read_bytes())
    assert piped.exit_code == 0
    assert encode(run, tiny, "in.wav", "out.edgc").exit_code == 0
    assert piped.stdout_bytes == (tmp_path / "out.edgc").read_bytes()
    result = decode(run, tiny, "-", "-", stdin=piped.stdout_bytes)
    assert result.exit_code == 0
    assert "decoded 0.12 s" in result.stderr
    (tmp_path / "piped.wav").write_bytes(result.stdout_bytes)
    decoded, rate = soundfile.read(tmp_path / "piped.wav")
    assert rate == 16000
    assert decoded.shape == audio.shape


def test_a_pipe_of_unknown_length(run, tiny: Path, clip: Path) -> None:
    data = bytearray(clip.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # as ffmpeg writes to a pipe
    result = encode(run, tiny, "-", "out.edgc", "--json", stdin=bytes(data))
    assert json.loads(result.stdout)["seconds"] == 1.0


def test_overhead_is_small_and_a_chunk_is_a_second_at_most(run, tiny: Path, tmp_path: Path, voice) -> None:
    soundfile.write(tmp_path / "in.wav", voice(80000), 8000)
    report = json.loads(encode(run, tiny, "in.wav", "out.edgc", "-b", 6, "--cbr", "--json").stdout)
    assert report["payload_kbps"] == pytest.approx(6, rel=0.001)
    assert report["file_kbps"] < 1.04 * report["payload_kbps"]
    facts = json.loads(run("info", "out.edgc", "--json").stdout)
    assert facts["frames_per_chunk"] == 255  # of 500 a second
    assert facts["samples"] == 80000
    assert facts["damage"] == []
    assert facts["bundle"] == "tiny"


# --- input that is refused: one line, exit code 1, and nothing left behind


def refused(result, *texts: str) -> None:
    assert result.exit_code == 1
    assert result.stderr.startswith("edgecodec: ")
    assert result.stderr.count("\n") == 1
    for text in texts:
        assert text in result.stderr


def bad_inputs(folder: Path, voice) -> dict[str, tuple[str, ...]]:
    """Files, and what is said about each."""
    sound = io.BytesIO()
    soundfile.write(sound, voice(8000), 8000, format="WAV")
    wav = sound.getvalue()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "truncated.wav").write_bytes(wav[:9000])
    (folder / "cut-header.wav").write_bytes(wav[:20])
    (folder / "text.wav").write_text("This is no audio at all.\n" * 100)
    (folder / "zero.wav").write_bytes(wav[:40] + b"\0\0\0\0")
    (folder / "noise.flac").write_bytes(np.random.default_rng(0).bytes(5000))
    broken = voice(8000)
    broken[4321] = np.nan
    soundfile.write(folder / "nan.wav", broken, 8000, subtype="FLOAT")
    broken[4321] = -np.inf
    soundfile.write(folder / "inf.wav", broken, 44100, subtype="FLOAT")
    soundfile.write(folder / "whole.flac", voice(80000), 8000)
    flac = (folder / "whole.flac").read_bytes()
    (folder / "truncated.flac").write_bytes(flac[: len(flac) // 2])
    (folder / "folder.wav").mkdir()
    return {
        "missing.wav": ("missing.wav: no such file",),
        "empty.wav": ("empty.wav: empty",),
        "truncated.wav": ("truncated.wav: truncated", "16044", "9000"),
        "cut-header.wav": ("cut-header.wav", "not an audio file"),
        "text.wav": ("text.wav: not an audio file",),
        "zero.wav": ("zero.wav", "holds no samples"),
        "noise.flac": ("noise.flac: not an audio file",),
        "nan.wav": ("nan.wav: NaN or infinity at sample 4321",),
        "inf.wav": ("inf.wav: NaN or infinity at sample 4321",),
        "truncated.flac": ("truncated.flac",),
        "folder.wav": ("folder.wav: a folder",),
    }


def test_bad_audio_files(run, tiny: Path, tmp_path: Path, voice) -> None:
    for name, texts in bad_inputs(tmp_path, voice).items():
        refused(encode(run, tiny, name, "out.edgc"), *texts)
        assert not (tmp_path / "out.edgc").exists()
        refused(run("roundtrip", name, "out.wav", "--bundle", tiny), *texts)
        assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("data", [b"", b"RIFF", b"fLaC" + b"\0" * 50, b"RIFF\0\0\0\0WAVEfmt "])
def test_bad_pipes(run, tiny: Path, tmp_path: Path, data: bytes) -> None:
    refused(encode(run, tiny, "-", "out.edgc", stdin=data), "standard input", "a pipe must carry WAV")
    assert not (tmp_path / "out.edgc").exists()


def test_a_truncated_pipe_and_one_of_another_encoding(run, tiny: Path, clip: Path, tmp_path: Path, voice) -> None:
    refused(
        encode(run, tiny, "-", "out.edgc", stdin=clip.read_bytes()[:9000]), "standard input: truncated, 4478 of 8000"
    )
    soundfile.write(tmp_path / "law.wav", voice(800), 8000, subtype="ULAW")
    refused(encode(run, tiny, "-", "out.edgc", stdin=(tmp_path / "law.wav").read_bytes()), "encoding")
    assert encode(run, tiny, "law.wav", "out.edgc").exit_code == 0  # libsndfile reads it


def test_absurd_wav_headers(run, tiny: Path, tmp_path: Path) -> None:
    def header(channels: int, rate: int, bits: int = 16) -> bytes:
        form = struct.pack("<IHHIIHH", 16, 1, channels, rate, 0, 0, bits)
        return b"RIFF\xff\xff\xff\xffWAVEfmt " + form + b"data\xff\xff\xff\xff" + b"\0" * 64

    for data in (header(60_000, 8000), header(0, 8000), header(1, 0), header(1, 2**32 - 1), header(1, 8000, 0)):
        refused(encode(run, tiny, "-", "out.edgc", stdin=data), "standard input")


# --- .edgc files that are damaged or another bundle's


@pytest.fixture
def coded(run, tiny: Path, tmp_path: Path, voice) -> bytes:
    soundfile.write(tmp_path / "coded.wav", voice(16000), 8000)
    encode(run, tiny, "coded.wav", "coded.edgc")
    return (tmp_path / "coded.edgc").read_bytes()


def test_truncated_files_decode_up_to_their_end_or_not_at_all(run, tiny: Path, tmp_path: Path, coded: bytes) -> None:
    for size in (0, 3, 20, 45, 500, len(coded) // 2, len(coded) - 1):
        (tmp_path / "cut.edgc").write_bytes(coded[:size])
        result = decode(run, tiny, "cut.edgc", "cut.wav", "-f")
        if size > 100:
            assert result.exit_code == 3
            assert "trunc" in result.stderr
            assert 0 < soundfile.info(tmp_path / "cut.wav").frames <= 16000
            (tmp_path / "cut.wav").unlink()
        else:
            refused(result, "cut.edgc")
        refused(decode(run, tiny, "cut.edgc", "cut.wav", "--strict"), "cut.edgc")
        assert not (tmp_path / "cut.wav").exists()
        result = decode(run, tiny, "-", "-", "--strict", stdin=coded[:size])
        refused(result, "standard input")
        assert not result.stdout_bytes


def test_flipped_bits(run, tiny: Path, tmp_path: Path, coded: bytes) -> None:
    for position in np.linspace(0, len(coded) - 1, 25).astype(int):
        data = bytearray(coded)
        data[position] ^= 0x10
        (tmp_path / "bad.edgc").write_bytes(data)
        result = decode(run, tiny, "bad.edgc", "bad.wav", "-f")
        assert result.exit_code in (3, 1)
        assert "bad.edgc: " in result.stderr
        refused(decode(run, tiny, "bad.edgc", "strict.wav", "--strict"), "bad.edgc")
        assert not (tmp_path / "strict.wav").exists()


def test_another_bundle_is_refused_by_name(run, tiny: Path, tmp_path: Path, bundle: Path, coded: bytes, maker) -> None:
    import hashlib

    import onnx

    graph = onnx.load(bundle / "decoder.onnx")
    graph.producer_name = "another"
    data = graph.SerializeToString()
    (bundle / "decoder.onnx").write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["name"] = "other"
    manifest["graphs"]["decoder"] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    refused(decode(run, bundle, "coded.edgc"), "coded.edgc: made with bundle 'tiny'", "not with 'other'")
    assert not (tmp_path / "out.wav").exists()
    refused(run("decode", "coded.edgc", "out.wav"), "made with bundle 'tiny', which is not shipped")


# --- outputs


def test_an_output_that_exists_needs_f(run, tiny: Path, tmp_path: Path, clip: Path) -> None:
    (tmp_path / "out.edgc").write_text("precious")
    refused(encode(run, tiny, clip, "out.edgc"), "out.edgc: exists; -f replaces it")
    assert (tmp_path / "out.edgc").read_text() == "precious"
    assert encode(run, tiny, clip, "out.edgc", "-f").exit_code == 0
    (tmp_path / "out.wav").write_text("precious")
    refused(decode(run, tiny, "out.edgc", "out.wav"), "exists")
    refused(run("roundtrip", clip, "out.wav", "--bundle", tiny), "exists")
    assert (tmp_path / "out.wav").read_text() == "precious"
    assert decode(run, tiny, "out.edgc", "out.wav", "-f").exit_code == 0
    assert oct((tmp_path / "out.wav").stat().st_mode & 0o777) == oct(0o666 & ~current_umask())


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failure_keeps_the_file_that_was_to_be_replaced(run, tiny: Path, tmp_path: Path, clip: Path) -> None:
    (tmp_path / "out.edgc").write_text("precious")
    (tmp_path / "bad.wav").write_bytes(clip.read_bytes()[:9000])
    refused(encode(run, tiny, "bad.wav", "out.edgc", "-f"), "truncated")
    assert (tmp_path / "out.edgc").read_text() == "precious"


@pytest.mark.parametrize("target", ["nowhere/out", "file/out", "folder", "/proc/out", "/dev/full"])
def test_outputs_that_cannot_be_written(run, tiny: Path, tmp_path: Path, clip: Path, target: str) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    refused(encode(run, tiny, clip, target), target.split("/")[-1])
    encode(run, tiny, clip, "out.edgc")
    suffix = "" if target in ("folder", "/dev/full") else ".wav"
    refused(decode(run, tiny, "out.edgc", target + suffix), target)
    if suffix:
        refused(decode(run, tiny, "out.edgc", f"{target}.flac"), target)


def test_suffixes_that_are_no_format(run, tiny: Path, clip: Path) -> None:
    encode(run, tiny, clip, "out.edgc")
    for target in ("out.xyz", "out"):
        refused(decode(run, tiny, "out.edgc", target), "cannot write", ".wav")
    refused(decode(run, tiny, "missing.edgc"), "missing.edgc: No such file")
    refused(decode(run, tiny, clip.parent), ": a folder, and")


def test_a_format_that_cannot_hold_the_audio(run, tiny: Path, tmp_path: Path, voice) -> None:
    soundfile.write(tmp_path / "five.wav", np.stack([voice(800)] * 5, axis=1), 8000)
    encode(run, tiny, "five.wav", "out.edgc")
    refused(decode(run, tiny, "out.edgc", "out.mp3"), "out.mp3", "5 channels")
    assert not (tmp_path / "out.mp3").exists()


def test_loud_audio_is_clipped_not_wrapped(run, tiny: Path, tmp_path: Path) -> None:
    t = np.arange(8000) / 8000
    soundfile.write(tmp_path / "loud.wav", (3 * np.sin(2 * np.pi * 300 * t)).astype(np.float32), 8000, subtype="FLOAT")
    assert run("roundtrip", "loud.wav", "out.wav", "-q", 4, "--bundle", tiny).exit_code == 0
    decoded, _ = soundfile.read(tmp_path / "out.wav")
    assert np.abs(np.diff(decoded)).max() < 1.5


def test_the_format_of_packets(codec) -> None:
    form = codec.packet_format(channels=2)
    assert (form.streams, form.code_bits) == (2, 4)


# --- outputs that are not ours: written in place


EDGECODEC = str(Path(sys.executable).parent / "edgecodec")


def shell(line: str, folder: Path, tiny: Path) -> subprocess.CompletedProcess[str]:
    """A line of bash; EC and TINY stand for the command and the bundle."""
    environment = {**os.environ, "EC": EDGECODEC, "TINY": str(tiny)}
    command = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def sounds(run, tiny: Path, tmp_path: Path, clip: Path) -> Path:
    """A folder with clip.wav, coded.edgc and what it decodes to, decoded.wav."""
    assert encode(run, tiny, clip, "coded.edgc").exit_code == 0
    assert decode(run, tiny, "coded.edgc", "decoded.wav").exit_code == 0
    return tmp_path


def samples_of(data: bytes) -> bytes:
    """The samples of WAV as edgecodec writes it, whatever its header says about lengths."""
    assert data[:4] == b"RIFF" and data[36:40] == b"data"
    return data[44:]


@pytest.mark.parametrize("target", ["-", "-f /dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-f links/to/stdout"])
@pytest.mark.parametrize("redirection", ["> shared", ">> shared"])
def test_a_shared_stdout_keeps_what_is_there(sounds: Path, tiny: Path, target: str, redirection: str) -> None:
    (sounds / "links").mkdir()
    (sounds / "links/to").symlink_to(".")
    (sounds / "links/stdout").symlink_to("../fd1")
    (sounds / "fd1").symlink_to("/dev/stdout")
    (sounds / "shared").write_text("precious\n" if ">>" in redirection else "goes")
    line = f'{{ echo before; "$EC" decode coded.edgc {target} --bundle "$TINY"; echo after; }} {redirection}'
    done = shell(line, sounds, tiny)
    assert done.returncode == 0, done.stderr
    start = b"precious\nbefore\n" if ">>" in redirection else b"before\n"
    written = (sounds / "shared").read_bytes()
    decoded = samples_of((sounds / "decoded.wav").read_bytes())
    assert written.startswith(start)
    rest = samples_of(written[len(start) :])
    assert rest.startswith(decoded)
    assert rest[len(decoded) :] == b"after\n"  # not a word between
    assert Path("/dev/stdout").is_symlink() and (sounds / "fd1").is_symlink() and (sounds / "links/stdout").is_symlink()


def test_descriptors_that_others_opened(sounds: Path, tiny: Path) -> None:
    line = 'echo before > three; "$EC" decode coded.edgc /dev/fd/3 -f --bundle "$TINY" 3>> three'
    done = shell(line, sounds, tiny)
    assert done.returncode == 0, done.stderr
    written = (sounds / "three").read_bytes()
    assert written.startswith(b"before\nRIFF")
    assert samples_of(written[7:]) == samples_of((sounds / "decoded.wav").read_bytes())
    done = shell('"$EC" decode coded.edgc /dev/fd/9 -f --bundle "$TINY"', sounds, tiny)
    assert done.returncode == 1
    assert done.stderr == "edgecodec: /dev/fd/9: cannot write: Bad file descriptor\n"


def test_a_descriptor_of_another_process_is_written_at_its_end(run, sounds: Path, tiny: Path) -> None:
    with (sounds / "theirs").open("wb") as file:
        file.write(b"before\n")
        file.flush()
        process = subprocess.Popen(["sleep", "60"], stdout=file)
    try:
        assert decode(run, tiny, "coded.edgc", f"/proc/{process.pid}/fd/1", "-f").exit_code == 0
    finally:
        process.kill()
        process.wait()
    assert (sounds / "theirs").read_bytes().startswith(b"before\nRIFF")


def test_devices_and_fifos_stay_what_they_are(run, sounds: Path, tiny: Path) -> None:
    os.mkfifo(sounds / "fifo.flac")
    (sounds / "null").symlink_to("/dev/null")
    for target in ("/dev/null", "null"):
        assert decode(run, tiny, "coded.edgc", target, "-f").exit_code == 0
        assert encode(run, tiny, "clip.wav", target, "-f").exit_code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode) and (sounds / "null").is_symlink()
    with ThreadPoolExecutor() as pool:
        read = pool.submit((sounds / "fifo.flac").read_bytes)
        assert decode(run, tiny, "coded.edgc", "fifo.flac", "-f").exit_code == 0
        assert samples_of(read.result(timeout=20)) == samples_of((sounds / "decoded.wav").read_bytes())
    assert (sounds / "fifo.flac").is_fifo()


def test_links_to_files_stay_links(run, sounds: Path, tiny: Path) -> None:
    (sounds / "elsewhere").mkdir()
    (sounds / "elsewhere/real.wav").write_text("precious")
    (sounds / "link.wav").symlink_to("elsewhere/real.wav")
    (sounds / "dangling.wav").symlink_to("elsewhere/new.wav")
    (sounds / "loop.wav").symlink_to("loop.wav")
    refused(decode(run, tiny, "coded.edgc", "link.wav"), "link.wav: exists")
    refused(decode(run, tiny, "coded.edgc", "loop.wav", "-f"), "loop.wav: cannot write: a loop of links")
    assert (sounds / "elsewhere/real.wav").read_text() == "precious"
    assert decode(run, tiny, "coded.edgc", "link.wav", "-f").exit_code == 0
    assert decode(run, tiny, "coded.edgc", "dangling.wav").exit_code == 0
    expected = (sounds / "decoded.wav").read_bytes()
    for link, file in (("link.wav", "real.wav"), ("dangling.wav", "new.wav")):
        assert (sounds / link).is_symlink()
        assert (sounds / "elsewhere" / file).read_bytes() == expected
    assert sorted(path.name for path in (sounds / "elsewhere").iterdir()) == ["new.wav", "real.wav"]


@pytest.mark.parametrize(
    "command", ["encode - out.edgc", "roundtrip - out.wav", "decode - out.wav", "decode - - --strict"]
)
def test_an_input_that_breaks_is_said_of_the_input(sounds: Path, tiny: Path, command: str) -> None:
    """A socket whose other end closes with something unread: what was sent is read, then comes an error."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"never read")
        source = "coded.edgc" if command.startswith("decode") else "clip.wav"
        theirs.sendall((sounds / source).read_bytes()[:-50])
        theirs.close()
        done = subprocess.run(
            [EDGECODEC, *command.split(), "--bundle", str(tiny)],
            cwd=sounds, stdin=ours, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "edgecodec: standard input: cannot read: Connection reset by peer\n"
    assert not list(sounds.glob("out.*")) and not list(sounds.glob(".edgecodec-*"))


def test_a_file_that_breaks_is_said_of_the_file(run, sounds: Path, tiny: Path) -> None:
    (sounds / "memory.edgc").symlink_to("/proc/self/mem")  # reading its first byte is an input/output error
    refused(decode(run, tiny, "memory.edgc"), "memory.edgc: cannot read: Input/output error")
    os.mkfifo(sounds / "fifo.wav")
    data = (sounds / "clip.wav").read_bytes()
    with ThreadPoolExecutor() as pool:
        pool.submit((sounds / "fifo.wav").write_bytes, data[:9000])
        refused(encode(run, tiny, "fifo.wav", "out.edgc"), "fifo.wav: truncated, 4478 of 8000")
    assert not (sounds / "out.edgc").exists()


def test_a_reader_that_goes_away_ends_a_command_in_silence(sounds: Path, tiny: Path, voice) -> None:
    for name, seconds in (("long", 60), ("medium", 20)):  # more than a pipe holds; and done before progress is told
        soundfile.write(sounds / f"{name}.wav", np.tile(voice(8000), seconds), 8000)
    assert shell('"$EC" encode long.wav long.edgc --bundle "$TINY"', sounds, tiny).returncode == 0
    os.mkfifo(sounds / "fifo")
    for command in ("decode long.edgc -", "roundtrip medium.wav -", "encode long.wav - -q 4", "decode long.edgc fifo"):
        pipe = "> /dev/null & head -c 100 < fifo > /dev/null" if "fifo" in command else "| head -c 100 > /dev/null"
        status = "wait $!; exit $?" if "fifo" in command else "exit ${PIPESTATUS[0]}"
        done = shell(f'"$EC" {command} --bundle "$TINY" {pipe}; {status}', sounds, tiny)
        told = [line for line in done.stderr.splitlines() if not line.startswith("seconds ")]  # how far it is
        assert (done.returncode, told) == (141, []), command


# --- WAV of more than two gigabytes


@pytest.mark.parametrize(("gibibytes", "known"), [(2, True), (3, True), (4, False)])
def test_the_length_of_a_long_wav(tmp_path: Path, gibibytes: int, known: bool) -> None:
    """A sparse file: all but its ends is a hole that takes no disk."""
    samples = (gibibytes << 30) // 2 + 1000
    with open_output(str(tmp_path / "long.wav"), suffixes=[".wav"]) as output, WavWriter(output, 8000, 1) as writer:
        writer.write(np.full((1, 1000), 0.5, np.float32))
        output.file.seek(output.file.tell() + (gibibytes << 30) - 2000)
        writer.write(np.full((1, 1000), -0.5, np.float32))
    with (tmp_path / "long.wav").open("rb") as file:
        riff, data = struct.unpack("<4xI32xI", file.read(44))
    size = (tmp_path / "long.wav").stat().st_size
    assert (riff, data) == ((size - 8, 2 * samples) if known else (0xFFFFFFFF, 0xFFFFFFFF))
    if known:
        assert soundfile.info(tmp_path / "long.wav").frames == samples
