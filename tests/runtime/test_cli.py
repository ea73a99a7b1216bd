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
import types
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec import errors
from peak_memory import peak_megabytes

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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
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


@pytest.mark.parametrize("package", ["typer", "numpy", "onnxruntime"])
def test_interruption_while_packages_are_imported(tiny: Path, package: str) -> None:
    """Packages of modules in C make an ImportError of it (pybind11's "initialization failed")."""
    code = f"""
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                if name == "typer":
                    raise
                raise ImportError("initialization failed") from error
sys.meta_path.insert(0, Interrupt())
sys.argv = ["edgecodec", "verify", {str(tiny)!r}]
from edgecodec.commands.entry import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "edgecodec: interrupted\n"
    assert done.returncode == 130


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
def test_half_an_hour_takes_little_memory(tiny: Path, tmp_path: Path, voice) -> None:
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 8000, 1) as file:
        minute = np.tile(voice(8000), 60)
        for _ in range(30):
            file.write(minute)
    for args in (["encode", "long.wav", "long.edgc", "-q", "1"], ["decode", "long.edgc", "back.wav"]):
        assert peak_megabytes(*args, "--bundle", str(tiny), cwd=tmp_path) < 200
    assert soundfile.info(tmp_path / "back.wav").frames == 1800 * 8000


def test_usage_errors_exit_2(run, tiny: Path, clip: Path, tmp_path: Path) -> None:
    for args in (["bogus"], ["encode"], ["encode", clip], ["encode", clip, "out.edgc", "-q", "many"]):
        assert run(*args).exit_code == 2
    result = run("encode", clip, "out.edgc", "--bundle", tiny, "-b", 50)
    assert result.exit_code == 2
    assert result.stderr == "edgecodec: tiny cannot do 50 kbps; possible: 2 to 8\n"
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
    assert facts["latency_ms"] == {"buffering": 2, "algorithmic": 2, "lookahead": 0}
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


NAMES = ["encode", "decode", "roundtrip", "trim", "codes", "info", "verify", "vectors", "doctor", "live", "devices",
         "web", "send", "receive", "simulate-loss", "evaluate", "bench", "export",
         "fit-codebooks", "study", "train", "train-entropy"]  # fmt: skip


def example(run, name: str) -> list[str]:
    """The words after `edgecodec` in the example with which the help of a command ends."""
    text = run(name, "--help").stdout
    last = text.rstrip().splitlines()[-1]
    assert text.count("Example: ") == 1
    assert last.startswith("  Example: edgecodec ")
    return shlex.split(last.removeprefix("  Example: edgecodec "))


def test_all_commands_are_listed_and_end_their_help_with_an_example(run) -> None:
    listed = run("--help").stdout.partition("Commands:\n")[2]
    assert [line.split()[0] for line in listed.splitlines()] == NAMES
    assert "..." not in listed  # every summary fits
    for name in NAMES:
        assert example(run, name)[0] == name


FILES = ["encode", "decode", "roundtrip", "trim", "simulate-loss", "info", "verify", "vectors", "evaluate", "bench"]


@pytest.mark.parametrize("name", FILES)
def test_the_example_in_every_help_works(run, tiny: Path, tmp_path: Path, clip: Path, monkeypatch, name: str) -> None:
    monkeypatch.setattr("edgecodec.bundle.shipped_bundles", lambda: {"speech": tiny, "tiny": tiny})
    monkeypatch.setattr("edgecodec.files.edgc.shipped_bundles", lambda: {"speech": tiny, "tiny": tiny})
    args = example(run, name)
    shutil.copy(clip, tmp_path / "speech.wav")
    if name in ("decode", "trim"):
        assert run("encode", "speech.wav", "speech.edgc").exit_code == 0
    if name == "bench":  # it starts processes of its own
        args[args.index("speech")] = str(tiny)
        args[args.index("--seconds") + 1] = "0.2"
    if name == "evaluate":
        (tmp_path / "tests" / "audio").mkdir(parents=True)
        shutil.copy(Path(__file__).parents[1] / "audio" / "speech_ro.flac", tmp_path / "tests" / "audio")
    rates = iter("68")  # the tiny bundle has other bitrates than the shipped one
    kbps = ("-b", "--compare-bitrate")
    args = [next(rates) if before in kbps else word for before, word in zip(["", *args], args, strict=False)]
    result = run(*args)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("name", [*FILES, "live", "send", "receive"])
def test_the_same_options_everywhere(run, name: str) -> None:
    words = run(name, "--help").stdout.split()
    for option in ("--json", "--device", "--threads"):
        assert (option in words) == (name not in ("info", "trim", "vectors") or option == "--json"), option


def test_the_version_of_a_source_tree(tmp_path: Path) -> None:
    """Where nothing is installed; the packages it needs are found through the path alone."""
    import typer

    tree = Path(__file__).parents[2] / "runtime"
    code = f"""
import sys
sys.path[:0] = [{str(tree)!r}, {str(Path(typer.__file__).parents[1])!r}]
from importlib import metadata
found = metadata.distribution
def distribution(name):
    if name == "edgecodec":
        raise metadata.PackageNotFoundError(name)
    return found(name)
metadata.distribution = distribution
metadata.entry_points = lambda **_: ()
sys.argv = ["edgecodec", "--version"]
from edgecodec.commands.main import main
main()
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert re.fullmatch(r"edgecodec \d+\.\d+\.\d+\n", done.stdout), done.stderr
    assert done.returncode == 0


def test_the_versions_agree() -> None:
    import edgecodec

    assert metadata.version("edgecodec") == edgecodec.__version__


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (errors.AudioError("clip.wav: empty"), 1, "clip.wav: empty"),
        (errors.BitrateError("no such bitrate"), 2, "no such bitrate"),
        (errors.ConfigError("run.steps: below 1"), 2, "run.steps: below 1"),
        (errors.ExportError("nothing was written"), 1, "nothing was written"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("stopped; the run is saved"), 130, "stopped; the run is saved"),
        (ModuleNotFoundError("", name="torch"), 1, "train needs torch: pip install 'edgecodec[train]'"),
        (ModuleNotFoundError("", name="edgecodec_training"), 1, "train: this installation lacks edgecodec_training"),
        (OSError(28, "No space left on device", "run/log"), 1, "run/log: No space left on device"),
        (MemoryError(), 1, "out of memory"),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_a_command_of_another_package_is_one_line(run, monkeypatch, raised, code, line) -> None:
    def command() -> None:
        raise raised

    monkeypatch.setattr(metadata.EntryPoint, "load", lambda entry: command)
    result = run("train")
    assert result.stderr == f"edgecodec: {line}\n"
    assert result.exit_code == code


@pytest.mark.parametrize(("name", "extra"), [("export", "export"), ("train", "train"), ("evaluate", "eval")])
def test_a_command_whose_packages_are_missing_says_what_to_install(run, monkeypatch, name: str, extra: str) -> None:
    def missing(self: metadata.EntryPoint) -> object:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(metadata.EntryPoint, "load", missing)
    result = run(name, "anything", "--at", "all")
    assert result.exit_code == 1
    assert result.stderr == f"edgecodec: {name} needs torch: pip install 'edgecodec[{extra}]'\n"


def test_commands_of_another_package_that_this_one_does_not_know(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def hello(name: str = "you") -> None:
        """Greet."""
        print(f"hello {name}")

    names = ("hello", "encode", "train")
    entries = [metadata.EntryPoint(name, "greetings:hello", "edgecodec.commands") for name in names]
    monkeypatch.setattr(metadata, "entry_points", lambda **_: entries)
    assert re.search(r"^  hello +From greetings:hello\.$", run("--help").stdout, re.MULTILINE)
    monkeypatch.setitem(sys.modules, "greetings", types.SimpleNamespace(hello=hello))
    assert run("hello", "--name", "there").stdout == "hello there\n"
    assert "Encode audio" in run("encode", "--help").stdout  # which is still our own
    assert run("train", "--name", "thief").exit_code == 2  # nor may it be what the house has elsewhere
    own = metadata.EntryPoint("train", "edgecodec_training.cli:train", "edgecodec.commands")
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [*entries, own])
    assert "Train a codec" in run("train", "--help").stdout


def test_other_packages_commands_parse_their_own_arguments(run) -> None:
    assert "--help" in run("train", "--help").stdout
    assert run("train", "--no-such-option").exit_code == 2


def test_a_command_that_is_none_is_told_from_one_that_is_misspelt(run) -> None:
    result = run("encod")
    assert result.exit_code == 2
    assert "Did you mean 'encode'" in result.stderr
