"""A stranger's bundle is first run in a process of its own: what ends, stops or fills that one does no harm here.

    not shipped, not trusted, not tried before -> child: load, a few frames, under limits -> remembered

A graph is a program: it may calculate for ever, ask for all memory, or end onnxruntime with a signal. A trial finds
what does so at once, by damage or by intent, and says so in one line. It is no wall: a graph may bide its time.

Nothing is tried where no Python can be started: in a program that was frozen into one file, or in one that Python is
built into, `sys.executable` is that program, and would begin anew. Who makes such a program chooses its bundles.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle, read_bundle, shipped_bundles
from .errors import BundleError, EdgecodecError, one_line
from .remembered import Remembered, key_of
from .sessions import Sessions

TRUST_VARIABLE = "EDGECODEC_TRUST"
MOST_SECONDS, MOST_MEGABYTES = 20.0, 2000  # of CPU, and of memory beyond an empty process
_SECONDS_OF_MEGABYTE, _MEGABYTES_OF_MEGABYTE = 0.1, 8  # more of both, by the size of the graphs
_LATE = 3  # times as much by the clock, on a busy machine, or where CPU time cannot be limited
_FRAMES = 8
_PROGRAM = (
    f"import json, sys; r = json.load(sys.stdin); sys.path[:] = r['path']; from {__name__} import _child; _child(r)"
)
_READY = "ready"
_TRIED = Remembered("tried-bundles")


def try_out(bundle: Bundle, *, trust: bool = False) -> None:
    """Run a bundle's graphs in a process with limits, unless it is shipped, trusted, or was tried before.

    Raises:
        BundleError: it took too long, wanted too much memory, or ended the process; or what loading it here raised.
    """
    if trust or _trusts_all() or _is_shipped(bundle) or not _has_python():
        return
    key = _key(bundle)
    if key in _TRIED:
        return
    if _run(bundle, key):
        _TRIED.add(key)


def remember(bundle: Bundle) -> None:
    """Take a bundle for tried: who calls this made it, and has run it."""
    if not _trusts_all():
        _TRIED.add(_key(bundle))


def _trusts_all() -> bool:
    return os.environ.get(TRUST_VARIABLE, "0") not in ("", "0")


def _is_shipped(bundle: Bundle) -> bool:
    return bundle.path.resolve() in [path.resolve() for path in shipped_bundles().values()]


def _has_python() -> bool:
    """Whether `sys.executable` is a Python, and not a program that holds one."""
    name = Path(sys.executable or "").name.lower()
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)


def _key(bundle: Bundle) -> str:
    """Of what is run, how, and by what."""
    import onnxruntime

    version = str(getattr(onnxruntime, "__version__", ""))
    return key_of("tried", bundle.manifest.to_json(), bundle.fingerprint, bundle.model_fingerprint, version)


def _limits(bundle: Bundle) -> tuple[float, int]:
    """Seconds of CPU time, and megabytes."""
    size = sum(map(len, bundle.graphs.values())) / 1e6
    return MOST_SECONDS + _SECONDS_OF_MEGABYTE * size, round(MOST_MEGABYTES + _MEGABYTES_OF_MEGABYTE * size)


def _run(bundle: Bundle, key: str) -> bool:
    """Whether a child has run it; False where none can be started."""
    seconds, megabytes = _limits(bundle)
    request = {
        "path": [str(place) for place in sys.path],
        "bundle": str(bundle.path),
        "seconds": seconds,
        "megabytes": megabytes,
    }
    environment = os.environ | {TRUST_VARIABLE: "1", "ORT_DISABLE_TELEMETRY": "1"}
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_LATE * seconds,
            env=environment,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # of Windows
        )
    except subprocess.TimeoutExpired as late:
        if _READY.encode() not in (late.stdout or b""):
            return False
        raise _failed(bundle, f"takes more than {_LATE * seconds:.0f} s") from None
    except (OSError, ValueError):  # no processes here, or a path that no argument can be
        return False
    lines = child.stdout.decode("utf-8", "replace").splitlines()
    if _READY not in lines:
        return False
    if child.returncode < 0:
        if -child.returncode == getattr(signal, "SIGXCPU", 0):
            raise _failed(bundle, f"takes more than {seconds:.0f} s of CPU time")
        raise _failed(bundle, f"ends the process with {_signal_name(-child.returncode)}")
    try:
        said = json.loads(lines[-1])
    except ValueError:
        raise _failed(bundle, f"ends the process with code {child.returncode:#x}") from None
    if "error" in said:
        raise BundleError(said["error"])
    if "memory" in said:
        raise _failed(bundle, f"wants more than {megabytes} MB of memory")
    if said["key"] != key:
        raise BundleError(f"{bundle.path}: was changed while it was loaded")
    return True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those without a name
        return f"signal {number}"


def _failed(bundle: Bundle, what: str) -> BundleError:
    return BundleError(
        f"{bundle.path}: running its graphs {what}, so it is not loaded; if you trust who made it: {TRUST_VARIABLE}=1"
    )


def _child(request: dict[str, Any]) -> None:
    """Run a bundle, and print as JSON what came of it."""
    import onnxruntime  # noqa: F401  # before the limits, which are for what it is given

    print(_READY, flush=True)
    _set_limits(request["seconds"], request["megabytes"])
    try:
        said = {"key": _try(request["bundle"])}
    except MemoryError:
        said = {"memory": ""}
    except EdgecodecError as error:
        said = {"memory" if _is_of_memory(str(error)) else "error": str(error)}
    except Exception as error:  # onnxruntime's errors share no base of their own
        said = {"error": f"{request['bundle']}: cannot be run: {one_line(error)}"}
    print(json.dumps(said), flush=True)
    os._exit(0)  # what is left to tidy is no trial


def _try(path: str) -> str:
    """Load a bundle, and take a little noise through it: the first frames, further ones, and the end of a stream."""
    bundle = read_bundle(Path(path))
    m, sessions = bundle.manifest, Sessions(bundle, "cpu", 1)
    frames = max(_FRAMES, m.start_frames.encoder, m.start_frames.decoder)
    rng = np.random.default_rng(0)
    audio = rng.uniform(-0.5, 0.5, (1, m.channels, frames * m.frame_size)).astype(np.float32)
    for stages in sorted({1, m.quantizer.max_stages}):
        heard, said = sessions.zero_state("encoder", 1), sessions.zero_state("decoder", 1)
        for last in (False, True):
            codes, heard = sessions.encode(audio, heard, stages, paths=m.max_paths, last=last)
            _, said = sessions.decode(m.check_codes(codes), said, last=last)
    return _key(bundle)


def _is_of_memory(text: str) -> bool:
    """What onnxruntime says then names one of many functions, and no kind of error."""
    return "alloc" in text.lower()


def _set_limits(seconds: float, megabytes: int) -> None:
    """CPU time and memory, no core dump; where a system lacks one of them, it is not limited."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    taken = _address_space()
    for name, limit in (("RLIMIT_CORE", 0), ("RLIMIT_CPU", int(seconds)), ("RLIMIT_AS", taken + megabytes * 10**6)):
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        _, hard = resource.getrlimit(kind)
        try:
            resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
        except (ValueError, OSError):  # macOS takes no limit of address space below what is taken
            continue


def _address_space() -> int:
    """Bytes that this process has already; a guess where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 2 << 30
