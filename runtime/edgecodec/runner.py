"""Runs a live stream in a thread of its own, beside keys, display and a watchdog in the main one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from .display import Screen, View
from .errors import DeviceError
from .keys import Keys

_REALTIME = 1  # the least there is; PulseAudio gives itself 5
_NICE = -11  # as PulseAudio and PipeWire give themselves
_TICK = 0.1  # seconds between looks
_STALL = 3.0  # seconds that a device may keep a call waiting


class StalledError(DeviceError):
    """A device that never returned from a call; the thread that waits for it cannot be ended."""


class Worker(Protocol):
    """What `run` runs."""

    calling: tuple[str, float] | None  # the device that a call waits for, and since when (time.monotonic)

    def run(self, stop: threading.Event) -> None:
        """Work until done or until `stop` is set."""


def run(worker: Worker, view: Callable[[], View], press: Callable[[str], None]) -> None:
    """Run a worker until it ends, `q` or Ctrl-C, which both end it in good order.

    Args:
        worker: runs in another thread.
        view: what to show now.
        press: told of every other key.

    Raises:
        StalledError: a device stopped answering.
        EdgecodecError: what the worker raised.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            worker.run(stop)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="edgecodec live", daemon=True)
    with _hangup_ends(), Keys() as keys, Screen(keyboard=keys.available) as screen:
        thread.start()
        try:
            with contextlib.suppress(KeyboardInterrupt):  # the usual way to end
                while thread.is_alive():
                    for key in keys.wait(_TICK):
                        if key == "q":
                            stop.set()
                        else:
                            press(key)
                    screen.show(view)
                    _check(worker)
        finally:
            stop.set()
            while thread.is_alive():
                thread.join(_TICK)
                _check(worker)
    if failures:
        raise failures[0]


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Put this thread, and all that are started meanwhile, before those of other programs, where the system allows it.

    Enter it before a device is opened: threads of the sound libraries must be as quick as ours, and so must every
    thread that may hold Python's lock. Linux: realtime for root or with RLIMIT_RTPRIO, else a better nice value for
    those with RLIMIT_NICE; elsewhere a priority is of the whole process.
    """
    if sys.platform != "linux":
        yield
        return
    policy, parameters, nice = os.sched_getscheduler(0), os.sched_getparam(0), os.getpriority(os.PRIO_PROCESS, 0)
    try:
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_REALTIME))
        except OSError:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, nice)


def _check(worker: Worker) -> None:
    calling = worker.calling
    if calling is not None and time.monotonic() - calling[1] > _STALL:
        raise StalledError(f"{calling[0]!r} has not answered for {_STALL:g} s; is the sound server or the device gone?")


@contextlib.contextmanager
def _hangup_ends() -> Iterator[None]:
    """A terminal that is closed ends the stream like SIGTERM: files are completed."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
