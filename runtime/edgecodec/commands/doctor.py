"""The command `doctor`: what this machine has and gives, and what is wrong with it."""

from __future__ import annotations

from dataclasses import asdict

from .options import AsJson, Bundle, say


def doctor(bundle: Bundle = "speech", as_json: AsJson = False) -> None:
    """Look for what is wrong on this machine: versions, processor, providers, devices, speed. Paste it into a report.

    Example: edgecodec doctor
    """
    from ..benchmarks.diagnosis import examine
    from ..errors import DeviceError
    from ..live.stderr import quiet_libraries

    with quiet_libraries():
        found = examine(bundle)
    say("\n".join(found.lines()), asdict(found), as_json)
    if found.broken:
        raise DeviceError("this machine does not run the codec as it should")
