"""Several processes that work through tasks: one that dies costs its task another try, not the rest.

    parent    tasks ->   worker 0   -> results
              tasks ->   worker 1   -> results          over a pipe of its own each

A worker at a short task has the next short one already, and goes on at once, whatever the parent is doing. A long task
is given to a worker that has none, and none waits behind it: the others would have nothing to do. A worker whose parent
is gone finds its pipe closed, and ends after its tasks.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, TypeVar

from ..durable import flushed_later
from ..errors import EdgecodecError, one_line, reason_of

TRIES = 2  # of a task whose worker dies
_AHEAD = 2  # short tasks that a worker has: the one at hand, and the next
_END_SECONDS = 0.7  # that workers have to end in good order when all is given up

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")
_TaskIn = TypeVar("_TaskIn", contravariant=True)
_ResultOut = TypeVar("_ResultOut", covariant=True)


class Work(Protocol[_TaskIn, _ResultOut]):
    """What a worker does. It travels to each one once, by pickle."""

    def begin(self) -> None:
        """Load what all tasks need."""

    def do(self, task: _TaskIn, /) -> _ResultOut:
        """One task."""


@dataclass(frozen=True)
class Outcome(Generic[_Task, _Result]):
    """A task, and its result or, in one line, why there is none."""

    task: _Task
    result: _Result | None
    failure: str | None = None


class _Worker(Generic[_Task, _Result]):
    """One process and the tasks that it has, each with its tries; it is at the first."""

    def __init__(self, work: Work[_Task, _Result]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(work, theirs), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()
        self.given: deque[tuple[_Task, int]] = deque()

    def give(self, task: _Task, tries: int) -> None:
        """Hand a task over; a worker that is gone shows when its answer is awaited."""
        self.given.append((task, tries))
        with contextlib.suppress(OSError):
            self.pipe.send(task)


class _Todo(Generic[_Task]):
    """Tasks that no worker has, with their tries."""

    def __init__(self, tasks: Iterable[_Task], is_short: Callable[[_Task], bool]) -> None:
        self._tasks, self._is_short = iter(tasks), is_short
        self._next: deque[tuple[_Task, int]] = deque()

    def give_back(self, tasks: Iterable[tuple[_Task, int]]) -> None:
        """Take tasks of a worker that died, to be done first."""
        self._next.extendleft(reversed([*tasks]))

    def feed(self, worker: _Worker[_Task, Any], most: int = _AHEAD) -> None:
        """Give a worker its next task, and others as long as all that it has are short, `most` in all."""
        while len(worker.given) < most and self._is_there():
            task, tries = self._next[0]
            if worker.given and not all(self._is_short(one) for one in (task, worker.given[-1][0])):
                return
            self._next.popleft()
            worker.give(task, tries)

    def _is_there(self) -> bool:
        if not self._next and (task := next(self._tasks, None)) is not None:
            self._next.append((task, 1))
        return bool(self._next)


def run(
    work: Work[_Task, _Result],
    tasks: Iterable[_Task],
    workers: int,
    is_short: Callable[[_Task], bool] = lambda task: False,
) -> Generator[Outcome[_Task, _Result], None, None]:
    """The outcomes of all tasks, as they come. Closing the generator ends the workers at once.

    `is_short`: whether a task is done so soon that another may wait for it, though a worker has nothing to do.

    Raises:
        EdgecodecError: what `begin` of the work raised, or workers that die before they have begun.
    """
    todo = _Todo(tasks, is_short)
    pool: list[_Worker[_Task, _Result]] = []
    try:
        for _ in range(workers):
            pool.append(_Worker(work))
            todo.feed(pool[-1], most=1)
            if not pool[-1].given:
                break  # there are more workers than tasks
        for worker in pool:
            todo.feed(worker)
        while busy := [worker.pipe for worker in pool if worker.given]:
            for pipe in wait(busy):
                at = next(i for i, worker in enumerate(pool) if worker.pipe is pipe)
                worker = pool[at]
                try:
                    result, failure, fatal = worker.pipe.recv()
                except (EOFError, OSError):
                    yield from _lost(worker, todo)
                    pool[at] = _Worker(work)
                    todo.feed(pool[at])
                    continue
                if fatal:
                    raise EdgecodecError(failure)
                task, _ = worker.given.popleft()
                todo.feed(worker)
                yield Outcome(task, result, failure)
    finally:
        _end(pool)


def _lost(worker: _Worker[_Task, _Result], todo: _Todo[_Task]) -> Iterator[Outcome[_Task, _Result]]:
    """What becomes of the tasks of a worker that died: the first had its try, the others are as they were."""
    worker.process.join()
    worker.pipe.close()
    (task, tries), *others = worker.given
    if tries < TRIES:
        todo.give_back([(task, tries + 1), *others])
        return
    todo.give_back(others)
    died = _how(worker.process.exitcode)
    yield Outcome(task, None, f"the process that worked at it {died}, {TRIES} times")


def _end(pool: list[_Worker[_Task, _Result]]) -> None:
    """End all workers: those without a task by closing their pipes, others by a signal. What they began is left."""
    for worker in pool:
        worker.pipe.close()
        if worker.given:
            worker.process.terminate()
    for worker in pool:
        worker.process.join(_END_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _serve(work: Work[_Task, _Result], pipe: Connection) -> None:
    """What a worker runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once: who asked clears up; in a callback of C, errors are lost
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _, failure = begin(lambda: work)
        if failure is not None:
            pipe.recv()
            pipe.send((None, failure, True))
            return
        with flushed_later():  # the parent does, see `journal`
            while True:
                pipe.send((*attempt(work, pipe.recv()), False))


def begin(load: Callable[[], Work[_Task, _Result]]) -> tuple[Work[_Task, _Result] | None, str | None]:
    """Work that is loaded and has begun; or, in one line, why not."""
    try:
        work = load()
        work.begin()
    except (EdgecodecError, OSError, MemoryError) as error:
        return None, one_line(error)
    return work, None


def attempt(work: Work[_Task, _Result], task: _Task) -> tuple[_Result | None, str | None]:
    """The result of a task; or, in one line, why there is none."""
    try:
        return work.do(task), None
    except MemoryError:
        return None, "out of memory"
    except (EdgecodecError, OSError) as error:
        return None, reason_of(error)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits meanwhile, and a process that is started hears of none, not even before its first line."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def usable_cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
