"""What is written: every rate and length comes back, errors of every file are heard, and nothing is lost on the way."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec.bitstream import Header, Writer
from edgecodec.chunk_coder import ChunkCoder
from edgecodec.files.audio import AUDIO_SUFFIXES
from edgecodec.packets import Packet
from peak_memory import peak_megabytes

EDGECODEC = str(Path(sys.executable).parent / "edgecodec")


def command(*args: object, **keywords) -> subprocess.CompletedProcess:
    keywords = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
    return subprocess.run(
        [EDGECODEC, *(arg if isinstance(arg, (str, bytes)) else str(arg) for arg in args)], check=False, **keywords
    )


def wav(samples: int, rate: int, channels: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).uniform(-0.5, 0.5, (samples, channels)), rate, format="WAV")
    return file.getvalue()


@pytest.fixture
def coded(run, tiny: Path, tmp_path: Path, clip: Path) -> Path:
    assert run("encode", clip, "coded.edgc", "--bundle", tiny).exit_code == 0
    return tmp_path / "coded.edgc"


# --- rates, lengths and channels


@pytest.mark.parametrize("rate", [1000, 7999, 44_100, 192_000, 768_000])
@pytest.mark.parametrize("samples", [1, 2, 17, 700])
def test_what_encode_writes_decode_reads(run, tiny: Path, tmp_path: Path, rate: int, samples: int) -> None:
    for channels in (1, 2, 3):
        data = wav(samples, rate, channels)
        (tmp_path / "in.wav").write_bytes(data)
        assert run("encode", "in.wav", "out.edgc", "-f", "-q", 1, "--bundle", tiny).exit_code == 0
        assert run("decode", "out.edgc", "out.wav", "-f", "--strict", "--bundle", tiny).exit_code == 0
        decoded, decoded_rate = soundfile.read(tmp_path / "out.wav", always_2d=True)
        assert (decoded.shape, decoded_rate) == ((samples, channels), rate)
        piped = run("encode", "-", "-", "-q", 1, "--bundle", tiny, stdin=data).stdout_bytes
        result = run("decode", "-", "-", "--bundle", tiny, stdin=piped)
        assert result.exit_code == 0
        assert len(result.stdout_bytes) == 44 + 2 * samples * channels


@pytest.mark.parametrize(
    ("rate", "channels", "suffixes"),
    [(200_001, 1, (".ogg", ".oga", ".flac", ".mp3")), (768_000, 1, (".ogg", ".oga", ".flac", ".mp3")),
     (1000, 1, (".mp3",)), (8000, 3, (".mp3",)), (8000, 9, (".flac", ".mp3"))],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(
    run, tiny: Path, tmp_path: Path, rate: int, channels: int, suffixes: tuple[str, ...]
) -> None:
    (tmp_path / "in.wav").write_bytes(wav(700, rate, channels))
    assert run("encode", "in.wav", "in.edgc", "--bundle", tiny).exit_code == 0
    for suffix in AUDIO_SUFFIXES:
        for args in (("decode", "in.edgc"), ("roundtrip", "in.wav")):
            result = run(*args, f"out{suffix}", "-f", "--bundle", tiny)
            if suffix in suffixes:
                assert result.exit_code == 1
                assert f"out{suffix}: " in result.stderr and " cannot hold " in result.stderr
                assert result.stderr.count("\n") == 1
                assert not (tmp_path / f"out{suffix}").exists()
            else:
                assert result.exit_code == 0, result.stderr
                assert soundfile.info(tmp_path / f"out{suffix}").samplerate == rate


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_many_channels_at_a_high_rate_take_little_memory(codec, tiny: Path, tmp_path: Path) -> None:
    m = codec.manifest
    frames = 255
    header = Header(codec.fingerprint, m.name, m.sample_rate, m.frame_size, 768_000, 255, 1, m.quantizer.code_bits, 255)
    codes = np.random.default_rng(0).integers(0, 16, (255, 1, frames))
    with (tmp_path / "wide.edgc").open("wb") as file, Writer(file, header) as writer:
        writer.write(ChunkCoder(header).encode([Packet(0, codes)])[0])
        writer.samples = (frames * m.frame_size - codec.delay) * 96
    peak = peak_megabytes("decode", "wide.edgc", "/dev/null", "--bundle", str(tiny), cwd=tmp_path)
    assert peak < 500  # half of it for the resampler; all at once it is more than a gigabyte


# --- errors of the last bytes


def test_a_disk_that_fills_at_the_last_byte(run, tiny: Path, tmp_path: Path, coded: Path) -> None:
    """A limit on file sizes stands for a full disk; the last bytes are written when a file is closed."""
    sizes = {}
    for suffix in (*AUDIO_SUFFIXES, ".edgc"):
        args = ("encode", "clip.wav") if suffix == ".edgc" else ("decode", "coded.edgc")
        assert run(*args, f"out{suffix}", "--bundle", tiny).exit_code == 0
        sizes[suffix] = (tmp_path / f"out{suffix}").stat().st_size
        (tmp_path / f"out{suffix}").unlink()
    code = """
import json, resource, sys
from typer.testing import CliRunner
from edgecodec.commands.main import app
for suffix, size in json.loads(sys.argv[2]).items():
    args = ["encode", "clip.wav"] if suffix == ".edgc" else ["decode", "coded.edgc"]
    for lacking in (1, 400, 4096):
        if lacking < size:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - lacking, resource.RLIM_INFINITY))
            result = CliRunner().invoke(app, [*args, "out" + suffix, "--bundle", sys.argv[1]])
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert result.exit_code == 1, (suffix, lacking, result.output)
            assert result.stderr == f"edgecodec: out{suffix}: cannot write: File too large\\n", result.stderr
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny), json.dumps(sizes)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.glob("out.*")) and not list(tmp_path.glob(".edgecodec-*"))


# --- links, modes, and what is read


def test_a_replaced_file_keeps_its_mode_and_its_other_names(run, tiny: Path, tmp_path: Path, coded: Path) -> None:
    assert run("decode", coded, "fresh.wav", "--bundle", tiny).exit_code == 0
    expected = (tmp_path / "fresh.wav").read_bytes()
    for name in ("plain.wav", "linked.wav", "soft.wav"):
        (tmp_path / name).write_bytes(b"x" * 3 * len(expected))
        (tmp_path / name).chmod(0o640)
    os.link(tmp_path / "linked.wav", tmp_path / "other.wav")
    (tmp_path / "link.wav").symlink_to("soft.wav")
    for name in ("plain.wav", "linked.wav", "link.wav"):
        assert run("decode", coded, name, "--bundle", tiny).exit_code == 1
        assert run("decode", coded, name, "-f", "--bundle", tiny).exit_code == 0
    for name in ("plain.wav", "linked.wav", "other.wav", "soft.wav", "link.wav"):
        assert (tmp_path / name).read_bytes() == expected, name
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "linked.wav").stat().st_ino == (tmp_path / "other.wav").stat().st_ino


def test_what_is_read_is_not_written(run, tiny: Path, tmp_path: Path, clip: Path, coded: Path) -> None:
    os.link(clip, tmp_path / "hard.wav")
    (tmp_path / "soft.wav").symlink_to("clip.wav")
    before = clip.read_bytes(), coded.read_bytes()
    for args in (
        ("encode", "clip.wav", "clip.wav", "--bundle", tiny),
        ("encode", "clip.wav", "hard.wav", "--bundle", tiny),
        ("roundtrip", "soft.wav", "clip.wav", "--bundle", tiny),
        ("roundtrip", "clip.wav", "soft.wav", "--bundle", tiny),
        ("trim", "coded.edgc", "coded.edgc", "-q", 1),
    ):
        result = run(*args, "-f")
        assert result.exit_code == 1
        assert result.stderr == f"edgecodec: {args[2]}: is also what is read; write to another file\n"
    line = f"{EDGECODEC} trim - coded.edgc -f -q 1 < coded.edgc; {EDGECODEC} trim coded.edgc - -q 1 >> coded.edgc"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.count("is also what is read") == 2
    assert (clip.read_bytes(), coded.read_bytes()) == before


# --- terminals, consoles and names


def test_a_terminal_gets_no_bytes_unless_they_are_forced(tiny: Path, tmp_path: Path, coded: Path) -> None:
    for target in ("-", "/dev/stdout"):
        ours, theirs = pty.openpty()
        done = command("trim", coded, target, "-q", 1, stdout=theirs)
        assert done.returncode == 1
        assert b"a terminal, which cannot show this" in done.stderr
        assert command("trim", coded, target, "-q", 1, "-f", stdout=theirs).returncode == 0
        assert os.read(ours, 4) == b"EDGC"
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("encoding", ["cp1251", "shift_jis", "latin-1", "utf-8"])
def test_consoles_of_other_code_pages(tiny: Path, tmp_path: Path, clip: Path, encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = command("encode", clip, tmp_path / "out.edgc", "--bundle", tiny, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.rstrip().endswith(b"x real time" if encoding == "cp1251" else " × real time".encode(encoding))


@pytest.mark.parametrize(
    "chosen", [{"LANG": "C"}, {"LC_ALL": "POSIX", "LANG": "de_DE.UTF-8"}, {"LANG": "", "PYTHONIOENCODING": "ascii"}]
)
def test_consoles_of_ascii_alone(tiny: Path, tmp_path: Path, clip: Path, chosen: dict[str, str]) -> None:
    """Python takes the locale C for UTF-8; such a terminal shows none."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    done = command("encode", clip, tmp_path / "out.edgc", "--bundle", tiny, env=plain | chosen)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii() and done.stdout.rstrip().endswith(b"x real time")
    done = command("encode", tmp_path / "é×.wav", tmp_path / "no.edgc", "--bundle", tiny, env=plain | chosen)
    assert done.returncode == 1 and done.stderr.endswith(b"/\\xe9x.wav: no such file\n")
    for args in (("decode", "--help"), ("bench", "--help"), ("info", tiny)):
        done = command(*args, env=plain | chosen)
        assert done.returncode == 0 and done.stdout.isascii() and done.stderr == b""
    done = command("encode", clip, tmp_path / "2.edgc", "--bundle", tiny, env=plain | {"LANG": "C.UTF-8"})
    assert done.stdout.rstrip().endswith(" × real time".encode())  # negative control


def test_names_that_are_not_utf_8(tiny: Path, tmp_path: Path, clip: Path) -> None:
    source, coded, decoded = (os.fsencode(tmp_path) + name for name in (b"/caf\xe9.wav", b"/\xff.edgc", b"/\xfe.flac"))
    clip.rename(os.fsdecode(source))
    for args in (("encode", source, coded), ("decode", coded, decoded)):
        done = command(args[0], *map(os.fsdecode, args[1:]), "--bundle", tiny)
        assert (done.returncode, done.stderr) == (0, b"")
    with Path(os.fsdecode(decoded)).open("rb") as file:
        assert soundfile.info(file).frames == 8000
    done = command("codes", os.fsdecode(coded), os.fsdecode(coded + b".npz"), "--bundle", tiny)
    assert done.stdout.startswith(coded + b".npz: codes of 1 channels")
    done = command("info", os.fsdecode(source))
    assert done.stderr == b"edgecodec: " + source + b": not an .edgc file\n"


def test_streams_that_are_closed(tiny: Path, tmp_path: Path, coded: Path) -> None:
    for line, says in (
        ("encode - out.edgc <&-", "standard input: closed"),
        ("decode - out.wav <&-", "standard input: closed"),
        ("info - <&-", "standard input: closed"),
        ("trim coded.edgc - -q 1 >&-", "standard output: closed"),
    ):
        bundle = "" if line.startswith(("info", "trim")) else f"--bundle {tiny}"
        words = line.split()
        done = subprocess.run(
            ["bash", "-c", f"{EDGECODEC} {' '.join(words[:-1])} {bundle} {words[-1]}"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (1, f"edgecodec: {says}\n"), line


def test_info_of_a_pipe(run, coded: Path) -> None:
    facts = json.loads(run("info", "-", "--json", stdin=coded.read_bytes()).stdout)
    assert facts == json.loads(run("info", coded, "--json").stdout)
    result = run("info", "-", stdin=b"words")
    assert (result.exit_code, result.stderr) == (1, "edgecodec: standard input: not an .edgc file\n")


def test_the_package_runs_as_the_command(coded: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "edgecodec", "info", str(coded)], capture_output=True, check=True)
    assert done.stdout == command("info", coded).stdout


def test_scripts_notice_a_damaged_file(run, tiny: Path, tmp_path: Path, coded: Path) -> None:
    data = bytearray(coded.read_bytes())
    data[len(data) // 2] ^= 0x40
    (tmp_path / "bad.edgc").write_bytes(data)
    result = run("decode", "bad.edgc", "out.wav", "--json", "--bundle", tiny)
    assert result.exit_code == 3
    assert json.loads(result.stdout)["damage"]
    assert soundfile.info(tmp_path / "out.wav").frames > 0
