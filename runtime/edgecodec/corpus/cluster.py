"""The same job on a Ray cluster: an actor with a codec for each worker, on whatever machines Ray finds room for them.

    driver    task ->   actor 0   -> result
              task ->   actor 1   -> result            each has one task at a time, once it has begun

Actors that Ray has no room for yet wait, without a task, until it has: scaling is left to Ray. An actor that dies is
replaced, and its task gets another try; results are written beside their place and renamed, so that one made twice is
there once. Actors and not Ray Data: that gives a file that kills its process to one process after another, for ever
(2.60, 18 in 90 s), where here tries are counted and the file fails alone. The folders must be the same on all machines,
and edgecodec be installed there.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import socket
import time
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import EdgecodecError, one_line, reason_of
from .pool import TRIES, Outcome, Work, attempt, begin
from .tasks import Result, Task

_OBJECT_BYTES = 80_000_000  # of the store of a Ray of our own; tasks and results are small
_DEATHS = 5  # of actors that have not begun, in a row
_KNOCK_SECONDS = 5.0
_LOOK_SECONDS = 10.0  # between looks for machines that have come


@dataclass(frozen=True)
class Cluster:
    """Which Ray, by its own names (`local`, `auto`, HOST:PORT), and what each actor takes of it."""

    address: str
    actors: int | None = None  # default: as many as there is room for, also when machines come in the meantime
    cpus: int = 1
    gpus: int = 0

    def run(self, work: Work[Task, Result], tasks: Iterable[Task]) -> Generator[Outcome[Task, Result], None, None]:
        """The outcomes of all tasks, as they come. Closing the generator ends the actors at once.

        Raises:
            EdgecodecError: no cluster there, what `begin` of the work raised, or actors that die before they begin.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of what it will change
        import ray

        own: dict[str, Any] = {}
        if self.address == "local":
            own = {"include_dashboard": False, "object_store_memory": _OBJECT_BYTES}
            own |= {"num_cpus": self.actors * self.cpus} if self.actors else {}
        self._knock()
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise EdgecodecError(f"--ray {self.address}: {one_line(error, 300)}") from None
        try:
            yield from _run(ray, self, pickle.dumps(work), tasks)
        finally:
            ray.shutdown()

    def _knock(self) -> None:
        """Raises EdgecodecError where nobody listens at HOST:PORT: Ray would wait for minutes."""
        host, _, port = self.address.rpartition(":")
        if not host or "/" in host or not port.isdecimal():
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
        except (OSError, OverflowError, UnicodeError) as error:
            raise EdgecodecError(f"--ray {self.address}: no Ray there: {reason_of(error)}") from None

    def room(self, resources: dict[str, float]) -> int:
        """How many actors there is room for, one at least."""
        if self.actors is not None:
            return self.actors
        fit = int(resources.get("CPU", 0)) // self.cpus
        return max(1, min(fit, int(resources.get("GPU", 0)) // self.gpus) if self.gpus else fit)


class _Actor:
    """What a worker runs."""

    def begin(self, work: bytes) -> str | None:
        """Load what all tasks need; why that failed, if it did."""
        self.work, failure = begin(lambda: pickle.loads(work))
        return failure

    def do(self, task: Task) -> tuple[Result | None, str | None]:
        """One task."""
        assert self.work is not None
        return attempt(self.work, task)


def _run(ray: Any, how: Cluster, work: bytes, tasks: Iterable[Task]) -> Generator[Outcome[Task, Result], None, None]:
    kind = ray.remote(num_cpus=how.cpus, num_gpus=how.gpus, max_restarts=0)(_Actor)
    shared = ray.put(work)
    todo = iter(tasks)
    again: deque[tuple[Task, int]] = deque()
    actors: dict[Any, Any] = {}  # by what is awaited of each
    given: dict[Any, tuple[Task, int]] = {}  # task and tries; of an actor that has yet to begin, none
    deaths = 0

    def start() -> None:
        actor = kind.remote()
        actors[actor.begin.remote(shared)] = actor

    def feed(actor: Any) -> None:
        task, tries = again.popleft() if again else (next(todo, None), 1)
        if task is None:
            idle.append(actor)
            return
        answer = actor.do.remote(task)
        actors[answer], given[answer] = actor, (task, tries)

    idle: list[Any] = []
    first = next(todo, None)
    if first is None:
        return
    again.append((first, 1))
    looked = -math.inf
    while again or given:
        if time.monotonic() - looked > _LOOK_SECONDS:
            looked = time.monotonic()
            for _ in range(len(actors) + len(idle), how.room(ray.cluster_resources())):
                start()
        (answer,), _ = ray.wait(list(actors), num_returns=1)
        actor, (task, tries) = actors.pop(answer), given.pop(answer, (None, 0))
        try:
            found = ray.get(answer)
        except ray.exceptions.RayActorError as error:
            with suppress(Exception):
                ray.kill(actor)
            if task is None:
                deaths += 1
                if deaths == _DEATHS:
                    raise EdgecodecError(f"workers die before they have begun: {one_line(error, 300)}") from None
            elif tries < TRIES:
                again.append((task, tries + 1))
            else:
                yield Outcome(task, None, f"the process that worked at it died, {TRIES} times")
            start()
            continue
        if task is None:
            if found is not None:
                raise EdgecodecError(found)
            deaths = 0
            feed(actor)
        else:
            feed(actor)
            yield Outcome(task, *found)
        while again and idle:
            feed(idle.pop())
