"""The real entry point in processes of its own: exit codes, signals, pipes, memory; and the texts of the commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

EDGECODEC = str(Path(sys.executable).parent / "edgecodec")


def command(*args: object, **keywords) -> subprocess.CompletedProcess:
    return subprocess.run([EDGECODEC, *map(str, args)], capture_output=True, check=False, **keywords)


def test_the_entry_point(tiny: Path, clip: Path, tmp_path: Path) -> None:
    done = command("encode", clip, tmp_path / "a.edgc", "--bundle", tiny)
    assert done.returncode == 0
    assert re.search(r"encoded 1\.00 s .* kbps payload, .* kbps on disk .* \d+ × real time", done.stdout.decode())
    done = command("decode", tmp_path / "a.edgc", tmp_path / "a.wav", "--bundle", tiny)
    assert done.returncode == 0
    assert soundfile.info(tmp_path / "a.wav").frames == 8000
    done = command("encode", tmp_path / "missing.wav", tmp_path / "b.edgc", "--bundle", tiny)
    assert done.returncode == 1
    assert done.stderr.decode() == f"edgecodec: {tmp_path}/missing.wav: no such file\n"


def test_real_pipes(tiny: Path, clip: Path, tmp_path: Path) -> None:
    tool, bundle = shlex.quote(EDGECODEC), shlex.quote(str(tiny))
    line = f"cat {clip} | {tool} encode - - --bundle {bundle} | {tool} decode - - --bundle {bundle} > out.wav"
    subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, check=True, capture_output=True)
    assert len(soundfile.read(tmp_path / "out.wav")[0]) == 8000


def test_a_reader_that_goes_away(tiny: Path, tmp_path: Path, voice) -> None:
    soundfile.write(tmp_path / "long.wav", np.tile(voice(8000), 60), 8000)
    line = f"{shlex.quote(EDGECODEC)} roundtrip long.wav - --bundle {shlex.quote(str(tiny))} | head -c 10 > /dev/null"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_leaves_nothing_behind(tiny: Path, tmp_path: Path, number: int, code: int) -> None:
    process = subprocess.Popen(
        [EDGECODEC, "encode", "-", "out.edgc", "--bundle", str(tiny)],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    header = (
        b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\xff\xff\xff\xff"
    )
    process.stdin.write(header + b"\0" * 400_000)
    process.stdin.flush()
    until = time.monotonic() + 20
    while not list(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert b"Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(tiny: Path, tmp_path: Path, voice) -> None:
    """A limit on file sizes stands for a full disk: the write fails in the same place."""
    soundfile.write(tmp_path / "long.wav", np.tile(voice(8000), 20), 8000)
    assert command("encode", "long.wav", "long.edgc", "--bundle", tiny, cwd=tmp_path).returncode == 0
    for target in ("out.wav", "out.flac"):
        line = f"ulimit -f 20; {shlex.quote(EDGECODEC)} decode long.edgc {target} --bundle {shlex.quote(str(tiny))}"
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert f"{target}: cannot write" in done.stderr
        assert "Traceback" not in done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["long.edgc", "long.wav"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_an_hour_takes_little_memory(tiny: Path, tmp_path: Path, voice) -> None:
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", 8000, 1) as file:
        minute = np.tile(voice(8000), 60)
        for _ in range(60):
            file.write(minute)
    code = (
        "import pathlib, sys; from edgecodec.commands.main import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as exit:\n"
        "    assert not exit.code, exit.code\n"
        "    status = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
        "    print(next(line.split()[1] for line in status if line.startswith('VmHWM')))"  # ru_maxrss begins with ours
    )
    for args in (["encode", "hour.wav", "hour.edgc", "-q", "1"], ["decode", "hour.edgc", "back.wav"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *args, "--bundle", str(tiny)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(done.stdout.split()[-1]) / 1024 < 300  # MB
    assert soundfile.info(tmp_path / "back.wav").frames == 3600 * 8000


def test_usage_errors_exit_2(run, tiny: Path, clip: Path, tmp_path: Path) -> None:
    for args in (["bogus"], ["encode"], ["encode", clip], ["encode", clip, "out.edgc", "-q", "many"]):
        assert run(*args).exit_code == 2
    result = run("encode", clip, "out.edgc", "--bundle", tiny, "-b", 5)
    assert result.exit_code == 2
    assert result.stderr == "edgecodec: tiny cannot do 5 kbps; possible: 2, 4, 6, 8 kbps\n"
    assert run("encode", clip, "out.edgc", "--bundle", tiny, "-b", 6, "-q", 3).exit_code == 2
    assert run("encode", clip, "out.edgc", "--bundle", tiny, "-q", 5).exit_code == 2
    assert run("encode", clip, "out.edgc", "--bundle", tiny, "--device", "tpu").exit_code == 2
    assert not (tmp_path / "out.edgc").exists()


def test_bundles_that_are_refused(run, clip: Path, bundle: Path) -> None:
    result = run("encode", clip, "out.edgc", "--bundle", "nothing")
    assert result.exit_code == 1
    assert "no bundle named 'nothing'; shipped:" in result.stderr
    (bundle / "encoder.onnx").unlink()
    for args in (["encode", clip, "out.edgc", "--bundle", bundle], ["verify", bundle], ["info", bundle]):
        result = run(*args)
        assert result.exit_code == 1
        assert "incomplete" in result.stderr


def test_version(run) -> None:
    assert re.fullmatch(r"edgecodec \d+\.\d+\.\d+\n", run("--version").stdout)


def test_info_of_a_bundle(run, tiny: Path) -> None:
    facts = json.loads(run("info", tiny, "--json").stdout)
    assert facts["bitrates_kbps"] == [2, 4, 6, 8]
    assert facts["latency_ms"] == {"buffering": 2, "algorithmic": 2}
    text = run("info", tiny).stdout
    assert "rvq, 4 stages of 16" in text
    assert run("info", "nothing").exit_code == 1
    (Path.cwd() / "text").write_text("words")
    result = run("info", "text")
    assert result.exit_code == 1
    assert result.stderr == "edgecodec: text: not an .edgc file\n"


def test_verify(run, tiny: Path, bundle: Path) -> None:
    result = run("verify", tiny)
    assert result.exit_code == 0
    assert "4 stages: 100.00% of codes equal" in result.stdout
    data = json.loads(run("verify", tiny, "--json").stdout)
    assert data["passed"]
    assert [row["stages"] for row in data["results"]] == [1, 2, 4]
    path = bundle / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    result = run("verify", bundle)
    assert result.exit_code == 1
    assert "altered" in result.stderr


@pytest.mark.parametrize("name", ["encode", "decode", "roundtrip", "simulate-loss", "info", "verify"])
def test_the_example_in_every_help_works(run, tiny: Path, tmp_path: Path, clip: Path, monkeypatch, name: str) -> None:
    monkeypatch.setattr("edgecodec.bundle.shipped_bundles", lambda: {"speech": tiny, "tiny": tiny})
    monkeypatch.setattr("edgecodec.files.transcode.shipped_bundles", lambda: {"speech": tiny, "tiny": tiny})
    text = run(name, "--help").stdout
    args = shlex.split(re.search(r"Example: edgecodec (.*)", text)[1])
    shutil.copy(clip, tmp_path / "speech.wav")
    if name == "decode":
        assert run("encode", "speech.wav", "speech.edgc").exit_code == 0
    if "-b" in args:
        args[args.index("-b") + 1] = "6"  # the tiny bundle has other bitrates than the shipped one
    result = run(*args)
    assert result.exit_code == 0, result.stderr


def test_a_command_whose_packages_are_missing_says_what_to_install(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    def missing(self: EntryPoint) -> object:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(EntryPoint, "load", missing)
    for name, extra in (("export", "export"), ("train", "train"), ("evaluate", "eval")):
        result = run(name, "anything", "--at", "all")
        assert result.exit_code == 1
        assert result.stderr == f"edgecodec: {name} needs torch: pip install 'edgecodec[{extra}]'\n"


def test_other_packages_commands_parse_their_own_arguments(run) -> None:
    assert "--help" in run("train", "--help").stdout
    assert run("train", "--no-such-option").exit_code == 2


def test_progress_is_said_in_lines_where_there_is_no_terminal(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecodec.commands import progress

    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    with progress.Progress("encoding", 60) as said:
        said.advance(3)
        said.advance(3)
    assert capsys.readouterr().err == "encoding: 3 of 60 s of audio\n"
