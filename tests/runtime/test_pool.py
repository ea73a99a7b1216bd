"""The processes of a job: each task is done once, or tried again, and no worker waits for its parent or for another."""

from __future__ import annotations

import os
import pickle
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from edgecodec.codebook_use import CodebookCounts
from edgecodec.corpus import pool
from edgecodec.corpus.inputs import Input
from edgecodec.corpus.tasks import Task, is_short
from edgecodec.errors import EdgecodecError


@dataclass(frozen=True)
class Deadly:
    """Ends its process at some tasks, as a crash in a library would."""

    marks: Path

    def begin(self) -> None:
        pass

    def do(self, task: int) -> int:
        if task == 3 or (task == 5 and not (self.marks / "5").exists()):
            (self.marks / str(task)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 7:
            raise EdgecodecError("seven\nis refused")
        return task * task


@dataclass(frozen=True)
class Unfit:
    def begin(self) -> None:
        raise EdgecodecError("cannot begin")

    def do(self, task: int) -> int:
        raise AssertionError


@pytest.mark.parametrize("short", [False, True])
def test_a_worker_that_dies_costs_its_task_another_try_and_no_more(tmp_path: Path, short: bool) -> None:
    every = [*pool.run(Deadly(tmp_path), range(10), 2, lambda task: short)]
    outcomes = {outcome.task: outcome for outcome in every}
    assert len(every) == 10 and sorted(outcomes) == list(range(10))
    assert {task: outcome.result for task, outcome in outcomes.items() if outcome.result is not None} == {
        task: task * task for task in range(10) if task not in (3, 7)
    }
    assert outcomes[3].failure == "the process that worked at it was ended by SIGKILL, 2 times"
    assert outcomes[7].failure == "seven is refused"
    with pytest.raises(EdgecodecError, match="cannot begin"):
        list(pool.run(Unfit(), range(3), 2))
    assert list(pool.run(Unfit(), [], 2)) == []


@dataclass(frozen=True)
class Marked:
    """Leaves a mark of each task; at one it waits for a mark first."""

    marks: Path
    waits: int | None = None

    def begin(self) -> None:
        pass

    def do(self, task: int) -> int:
        if task == self.waits:
            wait_for(self.marks / "go")
        (self.marks / str(task)).touch()
        return task


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_worker_goes_on_with_the_next_short_task_whatever_its_parent_does(tmp_path: Path) -> None:
    outcomes = pool.run(Marked(tmp_path), range(6), 1, lambda task: True)
    assert next(outcomes).result == 0
    wait_for(tmp_path / "2")  # nobody reads results meanwhile
    time.sleep(0.3)
    assert not (tmp_path / "3").exists()  # two, not all
    assert [outcome.result for outcome in outcomes] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("long", [0, 1, 4])
def test_nothing_waits_behind_a_long_task_while_another_worker_has_none(tmp_path: Path, long: int) -> None:
    outcomes = pool.run(Marked(tmp_path, waits=long), range(8), 2, lambda task: task != long)
    others = [next(outcomes).task for _ in range(7)]  # would wait for ever
    assert sorted([*others, long]) == list(range(8))
    (tmp_path / "go").touch()
    assert [outcome.task for outcome in outcomes] == [long]


def test_tasks_are_short_by_the_size_of_all_their_inputs(tmp_path: Path) -> None:
    for name, size in (("a", 1 << 17), ("b", 1 << 17), ("c", 1)):
        (tmp_path / name).write_bytes(bytes(size))
    a, b, c, gone = (Input(str(tmp_path / name), name) for name in ("a", "b", "c", "gone"))
    assert is_short(Task("x", "x", (a, b)))
    assert not is_short(Task("x", "x", (a, b, c)))
    assert not is_short(Task("x", "x", (c, gone)))


def test_counts_travel_small_and_are_added_to_there() -> None:
    counts = CodebookCounts(1024)
    counts.add(np.full((1, 8, 200), 7))
    data = pickle.dumps(counts)
    assert len(data) < 10_000 < counts.counts.nbytes
    there = pickle.loads(data)
    there.join(counts)
    assert (there.counts == 2 * counts.counts).all() and there.counts.sum() == 3200
