"""Several processes that work through tasks: one that dies costs its task another try, not the rest.

    parent    task ->   worker 0   -> result
              task ->   worker 1   -> result           each has one task at a time, over a pipe of its own

A worker whose parent is gone finds its pipe closed, and ends after its task.
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
from typing import Generic, Protocol, TypeVar

from ..durable import flushed_later
from ..errors import EdgecodecError, one_line, reason_of

TRIES = 2  # of a task whose worker dies
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
    """One process and the task that it has."""

    def __init__(self, work: Work[_Task, _Result]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(work, theirs), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()
        self.task: _Task | None = None
        self.tries = 0

    def give(self, task: _Task, tries: int) -> None:
        """Hand a task over; a worker that is gone shows when its answer is awaited."""
        self.task, self.tries = task, tries
        with contextlib.suppress(OSError):
            self.pipe.send(task)


def run(
    work: Work[_Task, _Result], tasks: Iterable[_Task], workers: int
) -> Generator[Outcome[_Task, _Result], None, None]:
    """The outcomes of all tasks, as they come. Closing the generator ends the workers at once.

    Raises:
        EdgecodecError: what `begin` of the work raised, or workers that die before they have begun.
    """
    todo = iter(tasks)
    again: deque[tuple[_Task, int]] = deque()
    pool: list[_Worker[_Task, _Result]] = []

    def feed(worker: _Worker[_Task, _Result]) -> None:
        if again:
            worker.give(*again.popleft())
        elif (task := next(todo, None)) is not None:
            worker.give(task, 1)

    try:
        for _ in range(workers):
            pool.append(_Worker(work))
            feed(pool[-1])
            if pool[-1].task is None:
                break  # there are more workers than tasks
        while any(worker.task is not None for worker in pool):
            for pipe in wait([worker.pipe for worker in pool if worker.task is not None]):
                at = next(i for i, worker in enumerate(pool) if worker.pipe is pipe)
                worker = pool[at]
                assert worker.task is not None
                try:
                    result, failure, fatal = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    died = _how(worker.process.exitcode)
                    if worker.tries < TRIES:
                        again.append((worker.task, worker.tries + 1))
                    else:
                        yield Outcome(worker.task, None, f"the process that worked at it {died}, {TRIES} times")
                    worker.pipe.close()
                    pool[at] = _Worker(work)
                    feed(pool[at])
                    continue
                if fatal:
                    raise EdgecodecError(failure)
                outcome = Outcome(worker.task, result, failure)
                worker.task = None
                feed(worker)
                yield outcome
    finally:
        _end(pool)


def _end(pool: list[_Worker[_Task, _Result]]) -> None:
    """End all workers: those without a task by closing their pipes, others by a signal. What they began is left."""
    for worker in pool:
        worker.pipe.close()
        if worker.task is not None:
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
