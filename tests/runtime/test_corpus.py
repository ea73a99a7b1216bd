"""Many files: the results of one at a time, whatever is broken among them and however often the job is killed."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec.codebook_use import codebook_use
from edgecodec.commands.main import app
from edgecodec.corpus.inputs import Input, in_folder, in_list
from edgecodec.corpus.journal import NAME, open_journal
from edgecodec.corpus.tasks import Result, identity, one_each
from edgecodec.errors import EdgecodecError
from edgecodec.files.code_arrays import codes_of_edgc
from edgecodec.files.encoding import Rate
from edgecodec.files.transcode import encode_file
from typer.testing import CliRunner

HERE = Path(__file__).parent
BUNDLE = HERE / "tiny_bundle"
CLIP = HERE.parent / "audio" / "speech_ro.flac"


def edgecodec_in(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgecodec", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    how = {"capture_output": True, "text": True, "errors": "surrogateescape", "timeout": 240}
    return subprocess.run(edgecodec_in(*arguments), check=False, **how)


def content(folder: Path) -> dict[str, bytes]:
    """All results by name; the journal tells of times, which are not the same twice."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short clips of real speech in several formats, rates and channel counts."""
    folder = tmp_path_factory.mktemp("clips")
    audio, rate = soundfile.read(CLIP, dtype="float32")
    kinds = [("wav", 24_000, 1), ("flac", 16_000, 1), ("ogg", 44_100, 2), ("wav", 8_000, 2), ("mp3", 48_000, 1)]
    for number in range(10):
        suffix, own, channels = kinds[number % len(kinds)]
        part = np.resize(audio[number * 4000 :], own * (1 + number % 3) // 2)
        path = folder / ("deep/er" if number % 2 else "") / f"clip {number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([part] * channels, axis=1), own)
    assert rate == 24_000
    return folder


@pytest.fixture(scope="module")
def made(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one undisturbed job makes of them."""
    folder = tmp_path_factory.mktemp("made") / "out"
    done = run("encode", clips, folder, "--recursive", "--bundle", BUNDLE, "-q", "2", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("encoded 10 of 10 files")
    return folder


def test_the_results_are_those_of_one_file_at_a_time(clips: Path, made: Path, tmp_path: Path) -> None:
    codec = edgecodec.load(BUNDLE)
    tasks = one_each(in_folder(str(clips), (".wav", ".flac", ".ogg", ".mp3")), made, ".edgc")
    assert len(tasks) == 10
    table = rows(made / "manifest.csv")
    for task in tasks:
        (one,) = task.inputs
        report = encode_file(codec, one.path, str(tmp_path / "one.edgc"), rate=Rate(stages=2), force=True)
        assert Path(task.target).read_bytes() == (tmp_path / "one.edgc").read_bytes()
        row = table[one.name]
        assert row["target"] == task.name and int(row["channels"]) == report.channels
        assert float(row["seconds"]) == pytest.approx(report.seconds, abs=1e-5)
    assert not (made / "failures.csv").exists()
    assert set(content(made)) == {*(task.name for task in tasks), "manifest.csv"}


def test_what_is_done_is_kept_and_what_has_changed_is_made_again(clips: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a", "b"):
        (source / f"{name}.wav").write_bytes((clips / "clip 0.wav").read_bytes())

    def job(*options: str) -> tuple[int, dict]:
        call = ["encode", str(source), str(out), "--bundle", str(BUNDLE), "--workers", "1", "--json", *options]
        result = CliRunner().invoke(app, call)
        return result.exit_code, json.loads(result.stdout)

    code, first = job("-q", "2")
    assert (code, first["made"], first["kept"]) == (0, 2, 0)
    before = {name: (out / name).stat().st_mtime_ns for name in ("a.edgc", "b.edgc")}
    soundfile.write(source / "b.wav", np.zeros(9000), 24_000)  # another input
    (source / "c.wav").write_bytes((source / "a.wav").read_bytes())
    code, second = job("-q", "2")
    assert (code, second["made"], second["kept"]) == (0, 2, 1)
    assert (out / "a.edgc").stat().st_mtime_ns == before["a.edgc"]
    assert (out / "b.edgc").stat().st_mtime_ns != before["b.edgc"]
    (out / "c.edgc").write_bytes(b"")  # cut: it is made again
    assert job("-q", "2")[1]["made"] == 1
    code, third = job("-q", "1")  # at another bitrate only with -f
    assert code == 3 and third["failed"] == 3 and "-f replaces it" in third["failures"]["a.wav"]
    assert job("-q", "1", "-f")[1]["made"] == 3
    (source / "d.wav").write_bytes((source / "a.wav").read_bytes())
    (out / "d.edgc").write_bytes(b"precious")  # of nobody here
    assert job("-q", "1")[0] == 3
    assert (out / "d.edgc").read_bytes() == b"precious"


def test_killed_at_any_moment_it_goes_on_to_the_same_end(clips: Path, made: Path, tmp_path: Path) -> None:
    """Ten times -9 (four in `make test`), to the parent or a worker; the results are those of an undisturbed job."""
    source, out, rng = tmp_path / "in", tmp_path / "out", random.Random(5)
    source.symlink_to(clips)
    command = edgecodec_in("encode", source, out, "--recursive", "--bundle", BUNDLE, "-q", "2", "--workers", "2")
    killed = 0
    rounds = 10 if os.environ.get("EVERYTHING") else 4
    for number in range(rounds):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        finished = len(content(out)) if out.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:  # wait until something moves
            if out.exists() and len(content(out)) > finished:
                break
            time.sleep(0.01)
        time.sleep(rng.random() * 0.1)
        if process.poll() is None:
            victim = process.pid if number % 2 else next(iter(children(process.pid)), process.pid)
            os.kill(victim, signal.SIGKILL)
            killed += 1
            if victim != process.pid:
                time.sleep(0.05)
                process.kill()
        process.communicate()
        if finished >= 9:  # all but one: begin anew
            for path in sorted(out.rglob("*.edgc"))[:7]:
                path.unlink()
    end = time.monotonic() + 60
    while time.monotonic() < end:  # a worker whose parent died finishes what it does
        done = run(*command[3:])
        if "another edgecodec" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    assert killed >= rounds // 2
    assert content(out) == content(made)


def children(pid: int) -> Iterator[int]:
    """The worker processes of a process; not what multiprocessing keeps beside them."""
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                yield int(folder.name)
        except (OSError, ValueError, IndexError):
            continue


def test_ctrl_c_ends_it_soon_and_keeps_what_is_finished(clips: Path, made: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(12):
        (source / f"{number:02}.ogg").write_bytes((clips / "clip 2.ogg").read_bytes())
    soundfile.write(source / "long.wav", np.random.default_rng(0).normal(0, 0.1, 24_000 * 240), 24_000)
    command = edgecodec_in("encode", source, out, "--bundle", BUNDLE, "-q", "2", "--workers", "2")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(list(out.glob("*.edgc"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    asked = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.endswith("interrupted\n") and "Traceback" not in said
    assert time.monotonic() - asked < 10  # a second, where the machine has nothing else to do
    finished = content(out)
    assert all(name.endswith((".edgc", ".csv")) for name in finished)
    known = {row["target"] for row in rows(out / "manifest.csv").values()}
    there = {target for target in finished if target.endswith(".edgc")}
    assert known <= there and len(there - known) <= 2  # what workers finished in the last moment nobody heard of


BROKEN = {
    "empty.wav": b"",
    "text.wav": b"This is no sound at all.\n" * 9,
    "codes.flac": (HERE / "version1.edgc").read_bytes(),
    "head.wav": b"RIFF\x24\x00\x00\x00WAVE",
    "opus head.opus": b"OggS" + bytes(40),
    "tag.mp3": b"ID3\x04\x00\x00\x00\x00\x00\x00",
}


def test_what_is_broken_is_named_and_stops_nothing(clips: Path, made: Path, tmp_path: Path) -> None:
    """50 broken inputs among 500 good ones: a reason for each of them, and a result for each of the others."""
    source, out = tmp_path / "in", tmp_path / "out"
    good = [path for path in sorted(clips.rglob("*")) if path.is_file()]
    source.mkdir()
    for number in range(500):
        path = good[number % len(good)]
        (source / f"good {number}{path.suffix}").write_bytes(path.read_bytes())
    paths = sorted(source.iterdir())
    broken: list[Path] = []
    for number, (name, data) in enumerate(BROKEN.items()):
        for copy in range(5):
            broken.append(source / f"{number} {copy} {name}")
            broken[-1].write_bytes(data)
    flac = (clips / "deep/er/clip 1.flac").read_bytes()
    for copy in range(8):  # cut in the middle
        broken.append(source / f"cut {copy}.flac")
        broken[-1].write_bytes(flac[: len(flac) * (copy + 1) // 10])
    for copy in range(4):
        broken.append(source / f"nothing there {copy}.wav")
        broken[-1].symlink_to("/nowhere/at all.wav")
    for copy in range(3):
        broken.append(source / os.fsdecode(b"\xff not UTF-8 %d.wav" % copy))
        broken[-1].write_bytes(b"RIFF")
    broken.append(source / "a folder.wav")
    broken[-1].mkdir()
    for letter in "xyz":
        broken.append(source / (letter * 300 + ".wav"))  # no file system has such names
    broken.append(source / "gone.wav")
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\n".join(os.fsencode(path) for path in [*paths, *broken]) + b"\n\n")
    assert len(broken) == 50
    done = run("encode", "--list", listed, out, "--bundle", BUNDLE, "-q", "2", "--workers", "2", "--json")
    assert done.returncode == 3 and "Traceback" not in done.stderr
    data = json.loads(done.stdout)
    assert (data["files"], data["made"], data["failed"]) == (550, 500, 50)
    reasons = rows(out / "failures.csv")
    below = [os.fsencode(str(path).lstrip("/")) for path in broken]
    assert {os.fsencode(name) for name in reasons} == set(below)
    assert all(row["reason"] and "\n" not in row["reason"] for row in reasons.values())
    assert reasons[str(broken[-1]).lstrip("/")]["reason"] == "no such file"
    results = [path for path in content(out) if path.endswith(".edgc")]
    assert len(results) == 500
    codes = [codes_of_edgc(str(out / path)).codes for path in results]
    counted = codebook_use([c.astype(np.int64) for c in codes], edgecodec.load(BUNDLE).manifest.quantizer.codebook_size)
    assert [(use["codes"], use["entries"]) for use in data["stage_use"]] == [(use.codes, use.used) for use in counted]
    assert [use["bits"] for use in data["stage_use"]] == [round(use.bits, 3) for use in counted]


def test_files_are_found_by_patterns_and_named_once(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac", "b.WAV", "x/c.mp3", "x/notes.txt", ".hidden.wav", ".dir/d.wav", "out/e.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "x/loop").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.fspath(Path(os.path.relpath(tmp_path)) / "s.wav"))
    os.mkfifo(tmp_path / "pipe.wav")

    def names(**options: object) -> list[str]:
        found = in_folder(str(tmp_path), (".wav", ".flac", ".mp3"), without=tmp_path / "out", **options)
        return [one.name for one in found]

    assert names() == ["a.flac", "a.wav", "b.WAV", "x/c.mp3"]
    assert names(recursive=False) == ["a.flac", "a.wav", "b.WAV"]
    assert names(include=["x/*"]) == ["x/c.mp3", "x/notes.txt"]
    assert names(exclude=["a.*", "x/*"]) == ["b.WAV"]
    found = [Input("", name) for name in names()]
    called = [task.name for task in one_each(found, tmp_path, ".edgc")]
    assert called == ["a.flac.edgc", "a.wav.edgc", "b.edgc", "x/c.edgc"]
    with pytest.raises(EdgecodecError, match="two files would become"):
        one_each([*found, Input("", "a.wav")], tmp_path, ".edgc")
    (tmp_path / "list").write_text("a.wav\n\n/abs/b.wav\nx/../y/c.wav\na.wav\n")
    assert [one.name for one in in_list(str(tmp_path / "list"))][:2] == ["a.wav", "abs/b.wav"]


def test_a_journal_is_read_whatever_became_of_it(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"12")
    source, result = identity([Input(str(tmp_path / "in"), "in")]), Result([{"seconds": 1.0}], {"b": "why"})
    with open_journal(tmp_path / "out", "s") as journal:
        journal.begin("a")
        (tmp_path / "out/a").write_bytes(b"123")
        journal.end("a", source, result)
        journal.begin("b")
        with pytest.raises(EdgecodecError, match="another edgecodec"), open_journal(tmp_path / "out", "s"):
            pass
    with (tmp_path / "out" / NAME).open("a") as file:
        file.write('7\n{"target": "c"}\n{"begun": "d", \n\x00\xff\n[]\n{"begun": "e"')
    for _ in range(2):
        with open_journal(tmp_path / "out", "s") as journal:
            assert journal.result_of("a", source) == result
            assert journal.result_of("a", [[2, 0]]) is None and journal.result_of("c", source) is None
            assert journal.is_ours("a") and journal.is_ours("b") and not journal.is_ours("c")
    with open_journal(tmp_path / "out", "other") as journal:
        assert journal.result_of("a", source) is None and not journal.is_ours("a")


def test_folders_are_decoded_and_their_codes_taken(clips: Path, made: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    call = ["--recursive", "--bundle", str(BUNDLE), "--workers", "2", "--json"]
    result = runner.invoke(app, ["decode", str(made), str(tmp_path / "wav"), "--format", "flac", *call])
    assert result.exit_code == 0, result.output
    for name, row in rows(made / "manifest.csv").items():
        info = soundfile.info(tmp_path / "wav" / Path(row["target"]).with_suffix(".flac"))
        before = soundfile.info(clips / name)
        assert (info.samplerate, info.channels) == (before.samplerate, before.channels)
        assert info.frames == int(row["samples"])
    result = runner.invoke(app, ["codes", str(made), str(tmp_path / "npz"), *call])
    assert result.exit_code == 0, result.output
    options = ["--format", "npz", "-q", "2", "--effort", "fast"]
    result = runner.invoke(app, ["encode", str(clips), str(tmp_path / "direct"), *call, *options])
    assert result.exit_code == 0, result.output
    louder = 0
    for path in (tmp_path / "npz").rglob("*.npz"):  # by way of .edgc, or not
        with np.load(path) as one, np.load(tmp_path / "direct" / path.relative_to(tmp_path / "npz")) as other:
            assert one["codes"].dtype == np.uint8 and one["codes"].shape[1] == 2
            if "gain" in one:  # of a quiet file, whose arrays hold the codes of the audio as it is
                louder += 1
                continue
            assert {name: one[name].tolist() for name in one} == {name: other[name].tolist() for name in other}
    assert louder < len(rows(made / "manifest.csv"))
    (made / "broken.edgc").write_bytes((HERE / "version1.edgc").read_bytes()[:-20])
    result = runner.invoke(app, ["decode", str(made), str(tmp_path / "wav"), "--format", "flac", *call])
    (made / "broken.edgc").unlink()
    assert result.exit_code == 3 and json.loads(result.stdout)["kept"] == 10


def test_a_dry_run_writes_nothing(clips: Path, tmp_path: Path) -> None:
    call = ["encode", str(clips), str(tmp_path / "out"), "--bundle", str(BUNDLE), "--dry-run"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert "5 files to do, 0 done before, 0 that cannot be" in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", CLIP, "x", "--recursive"], "is no folder"),
        (["encode", CLIP, "x", "--workers", "2"], "goes with many files"),
        (["encode", CLIP], "say where to write"),
        (["encode", CLIP, "x", "--list", "y"], "give OUT only"),
        (["encode", CLIP, "x", "--format", "npz"], "see edgecodec codes"),
        (["encode", HERE, "x", "--format", "npz", "--quality", "3"], "goes with a variable rate"),
        (["decode", HERE, "x", "--start", "3"], "goes with one file"),
    ],
)
def test_contradictions_are_refused(arguments: list, message: str) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
