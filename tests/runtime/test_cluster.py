"""A job on a Ray of two workers, one of them killed: all is there, once, as local processes make it."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec.commands.main import app
from edgecodec.corpus import pool
from edgecodec.corpus.cluster import Cluster
from edgecodec.corpus.files import EncodeFiles
from edgecodec.corpus.inputs import in_folder
from edgecodec.corpus.tasks import one_each
from edgecodec.files.encoding import Rate
from typer.testing import CliRunner

BUNDLE = Path(__file__).parent / "tiny_bundle"


def of_ray(name: bytes) -> Iterator[int]:
    """Processes below this one that are called so."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if name not in (folder / "cmdline").read_bytes():
                continue
            one = folder.name
            while one not in ("0", "1", str(os.getpid())):
                one = (Path("/proc") / one / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if one == str(os.getpid()):
            yield int(folder.name)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker to kill in /proc")
def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    source = tmp_path / "in"
    source.mkdir()
    for number in range(8):
        soundfile.write(source / f"{number}.wav", np.random.default_rng(number).uniform(-0.5, 0.5, 4000), 8000)
    (source / "broken.wav").write_bytes(b"RIFF")
    work = EncodeFiles(edgecodec.load(BUNDLE), Rate(stages=2), "fast", False)
    inputs = in_folder(str(source), (".wav",))
    ours, theirs = tmp_path / "pool", tmp_path / "ray"
    failures = []
    for folder in (ours, theirs):
        folder.mkdir()
    for outcome in pool.run(work, one_each(inputs, ours, ".edgc"), 1):
        failures += [outcome.failure] if outcome.failure else []
    names = Counter()
    for outcome in Cluster("local", 2).run(work, one_each(inputs, theirs, ".edgc")):
        if not names:
            os.kill(next(of_ray(b"ray::_Actor")), signal.SIGKILL)
        names[outcome.task.name] += 1
        assert (outcome.failure is not None) == (outcome.task.name == "broken.edgc")
        failures += [outcome.failure] if outcome.failure else []
    assert len(names) == 9 and set(names.values()) == {1}
    assert len(failures) == 2 and failures[0] == failures[1]
    made = {path.name: path.read_bytes() for path in ours.iterdir()}
    assert len(made) == 8 and {path.name: path.read_bytes() for path in theirs.iterdir()} == made
    assert not list(of_ray(b"raylet"))


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 8000)
    result = CliRunner().invoke(
        app, ["encode", str(tmp_path), str(tmp_path / "out"), "--bundle", str(BUNDLE), "--ray", "local"]
    )
    assert result.exit_code == 1 and "encode needs ray: pip install 'edgecodec[cluster]'" in result.stderr


@pytest.mark.parametrize(("address", "said"), [("127.0.0.1:1", "no Ray there"), ("127.0.0.1:700000", "no Ray there")])
def test_nobody_at_the_address(tmp_path: Path, address: str, said: str) -> None:
    pytest.importorskip("ray")
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 8000)
    args = ["encode", str(tmp_path), str(tmp_path / "out"), "--bundle", str(BUNDLE), "--ray", address]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 1 and said in result.stderr.splitlines()[-1]
