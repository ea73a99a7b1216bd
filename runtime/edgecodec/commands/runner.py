"""Runs a live stream in a thread of its own, beside keys, display and a watchdog in the main one."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..errors import StalledError
from .display import Screen, View
from .keys import Keys

if TYPE_CHECKING:
    from ..live.worker import LiveWorker

_TICK = 0.1  # seconds between looks
_STALL = 3.0  # seconds that a device may keep a call waiting


def run(worker: LiveWorker, view: Callable[[], View], press: Callable[[str], None]) -> None:
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


def _check(worker: LiveWorker) -> None:
    calling = worker.calling
    if calling is not None and time.monotonic() - calling[1] > _STALL:
        raise StalledError(f"{calling[0]!r} has not answered for {_STALL:g} s; is the sound server or the device gone?")


@contextlib.contextmanager
def _hangup_ends() -> Iterator[None]:
    """A terminal that is closed ends the stream like SIGTERM: files are completed."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
