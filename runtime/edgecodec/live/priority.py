"""The priority of threads that sound waits for."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

_REALTIME = 1  # the least there is; PulseAudio gives itself 5
_NICE = -11  # as PulseAudio and PipeWire give themselves


@contextlib.contextmanager
def realtime_priority() -> Iterator[None]:
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
