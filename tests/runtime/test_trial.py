"""Bundles that end, stop or fill whoever runs them: found in a child, once, and said in one line."""

from __future__ import annotations

import pickle
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import edgecodec
import numpy as np
import onnx
import pytest
from edgecodec import trial
from edgecodec.bundle import read_bundle
from edgecodec.errors import BundleError
from onnx import TensorProto, helper, numpy_helper
from test_bundle import replace

TRIED = "edgecodec/tried-bundles"
posix = pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and nothing trusted."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.delenv("EDGECODEC_TRUST", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The processes that were started, as they are."""
    started, run = [], subprocess.run

    def counted(command, **options):
        started.append(command)
        return run(command, **options)

    monkeypatch.setattr(trial.subprocess, "run", counted)
    return started


def spoil(bundle: Path, nodes: list, values: dict[str, np.ndarray]) -> None:
    """Put nodes into the decoder that make a float `extra`, which nothing but zero times is added to the audio."""
    graph = onnx.load(bundle / "decoder.onnx")
    g = graph.graph
    for node in g.node:
        node.output[:] = ["clean" if name == "audio" else name for name in node.output]
    values = {**values, "nothing": np.float32(0)}
    g.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in values.items())
    g.node.extend([*nodes, helper.make_node("Mul", ["extra", "nothing"], ["none"])])
    g.node.append(helper.make_node("Add", ["clean", "none"], ["audio"]))
    replace(bundle, "decoder", graph.SerializeToString())


def endless(bundle: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on_out"]), helper.make_node("Identity", ["x"], ["x_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_out", TensorProto.FLOAT, []),
        ],
    )
    nodes = [helper.make_node("Loop", ["", "true", "one_f"], ["extra"], body=body)]
    spoil(bundle, nodes, {"true": np.array(True), "one_f": np.float32(1)})


def greedy(bundle: Path, numbers: int) -> None:
    """Floats, as many, that are made when it runs, and looked at."""
    nodes = [
        helper.make_node("Shape", ["latents"], ["shape"]),
        helper.make_node("Gather", ["shape", "at"], ["batch"]),  # 1
        helper.make_node("Mul", ["batch", "many"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["extra"], keepdims=0),
    ]
    spoil(bundle, nodes, {"at": np.array([0]), "many": np.array([numbers])})


def fatal(bundle: Path) -> None:
    """The least whole number by -1, which x86 has no answer for."""
    nodes = [
        helper.make_node("Shape", ["latents"], ["shape"]),
        helper.make_node("Gather", ["shape", "at"], ["batch"]),
        helper.make_node("Neg", ["batch"], ["minus"]),
        helper.make_node("Div", ["least", "minus"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["extra"], to=TensorProto.FLOAT),
    ]
    spoil(bundle, nodes, {"at": np.array(0), "least": np.array(-(2**63))})


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as error:
        edgecodec.load(bundle)
    assert str(error.value).isprintable()
    return str(error.value)


@posix
def test_a_graph_that_never_ends(bundle: Path, cache: Path, monkeypatch) -> None:
    endless(bundle)
    monkeypatch.setattr(trial, "MOST_SECONDS", 2.0)
    monkeypatch.setattr(trial, "_LATE", 30)  # on a busy machine
    begun = time.monotonic()
    said = f"{bundle}: running its graphs takes more than 2 s of CPU time, so it is not loaded; if you trust who made"
    assert refusal(bundle).startswith(said)
    assert time.monotonic() - begun < 60
    assert not (cache / TRIED).exists()


def test_a_graph_that_never_ends_by_the_clock(bundle: Path, monkeypatch) -> None:
    endless(bundle)
    monkeypatch.setattr(trial, "_LATE", 0.25)
    assert "takes more than 5 s, so" in refusal(bundle)


@posix
@pytest.mark.parametrize("numbers", [600 << 20, 1 << 33, 1 << 45])
def test_a_graph_that_wants_gigabytes(bundle: Path, numbers: int) -> None:
    greedy(bundle, numbers)
    assert "wants more than 2000 MB of memory" in refusal(bundle)


def test_a_graph_that_wants_little_is_loaded(bundle: Path, voice) -> None:
    """Negative control: the same nodes."""
    sound = edgecodec.load(bundle, trust=True)
    greedy(bundle, 1 << 20)
    codec = edgecodec.load(bundle)
    codes = codec.encode(voice(800))
    assert np.array_equal(codec.decode(codes), sound.decode(codes))


@posix
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors give a number")
def test_a_graph_that_ends_the_process(bundle: Path) -> None:
    fatal(bundle)
    assert "ends the process with SIGFPE" in refusal(bundle)


@posix
@pytest.mark.parametrize("how", ["SIGABRT", "SIGSEGV", "SIGKILL", "signal 40"])
def test_other_signals(bundle: Path, how: str, monkeypatch) -> None:
    kill = f"import os, signal; os.kill(os.getpid(), {how.removeprefix('signal ') if ' ' in how else f'signal.{how}'})"
    monkeypatch.setattr(trial, "_PROGRAM", f"print('ready', flush=True); {kill}")
    assert f"ends the process with {how}" in refusal(bundle)


def test_odd_paths_reach_the_child(bundle: Path, children, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/nowhere"), "/caf\udce9"])
    odd = bundle.rename(bundle.with_name("caf\udce9 é"))
    edgecodec.load(odd)
    assert len(children) == 1


def test_what_is_wrong_with_a_bundle_is_said_as_without_a_trial(bundle: Path) -> None:
    replace(bundle, "decoder", (bundle / "encoder.onnx").read_bytes())
    said = refusal(bundle)
    with pytest.raises(BundleError, match=re.escape(said)):
        edgecodec.load(bundle, trust=True)


def test_once_for_each_bundle(bundle: Path, cache: Path, children, voice) -> None:
    codec = edgecodec.load(bundle)
    assert len(children) == 1 and len((cache / TRIED).read_text().splitlines()) == 2
    again = pickle.loads(pickle.dumps(edgecodec.load(bundle)))
    assert np.array_equal(again.encode(voice(80)), codec.encode(voice(80)))
    assert len(children) == 1
    greedy(bundle, 1)  # another
    edgecodec.load(bundle)
    edgecodec.load(bundle)
    assert len(children) == 2


def test_none_for_what_is_shipped_trusted_or_made_here(bundle: Path, cache: Path, children, monkeypatch) -> None:
    edgecodec.load("speech")
    edgecodec.load(bundle, trust=True)
    assert not list(cache.iterdir())
    trial.remember(read_bundle(bundle))
    edgecodec.load(bundle)
    (cache / TRIED).unlink()
    monkeypatch.setenv("EDGECODEC_TRUST", "1")
    edgecodec.load(bundle)
    assert not children
    monkeypatch.setenv("EDGECODEC_TRUST", "0")
    edgecodec.load(bundle)
    assert len(children) == 1


@pytest.mark.parametrize("program", ["", "/opt/app/recorder", "/usr/bin/uwsgi", None])
def test_a_program_that_holds_python_is_not_started_again(bundle: Path, children, monkeypatch, program) -> None:
    monkeypatch.setattr(sys, "executable", program)
    edgecodec.load(bundle)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    edgecodec.load(bundle)
    assert not children


def test_where_no_process_can_be_started_or_import_us(bundle: Path, cache: Path, monkeypatch) -> None:
    for program in ("import nothing_of_the_kind", "import sys; sys.exit(3)"):
        monkeypatch.setattr(trial, "_PROGRAM", program)
        edgecodec.load(bundle)

    def forbidden(*_, **__):
        raise PermissionError(13, "no processes here")

    monkeypatch.setattr(trial.subprocess, "run", forbidden)
    edgecodec.load(bundle)
    assert not (cache / TRIED).exists()


def test_files_that_are_exchanged_meanwhile(bundle: Path, monkeypatch) -> None:
    checked = read_bundle(bundle)
    greedy(bundle, 1)
    with pytest.raises(BundleError, match="was changed while it was loaded"):
        trial.try_out(checked)


def test_a_name_of_a_folder_is_no_shipped_bundle(bundle: Path, monkeypatch) -> None:
    """`Path("speech")` is a folder, and its graphs are tried, not those that are shipped."""
    endless(bundle)
    bundle.rename(bundle.with_name("speech"))
    monkeypatch.chdir(bundle.parent)
    monkeypatch.setattr(trial, "MOST_SECONDS", 2.0)
    monkeypatch.setattr(trial, "_LATE", 30)  # on a busy machine
    assert "takes more than 2 s" in refusal(Path("speech"))
