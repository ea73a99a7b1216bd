"""Mutated input for every parser: `fuzz.py --minutes 60`, or `fuzz.py --only npz --minutes 1 --seed 7`.

Each target runs in a process of its own, which notes every input in a file before it is parsed, so that one that ends
or stops the process is found. What fails is put into `found/`, and belongs into `corpus/` with the repair.

A failure is an exception outside the tree of `edgecodec.errors`, a warning, an input that takes more than 2 s of CPU
time, a process that dies, or one whose memory grows by more than 500 MB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
MOST_SECONDS, MOST_MEGABYTES = 2.0, 500
START_SECONDS = 240  # imports of torch, on a busy machine
ENOUGH = 1_000_000  # inputs of a target; what it does not need of its time, the others have
STUCK_SECONDS = 60  # wall time without a new input
NUMBERS = (0, 1, -1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1, 10**30)
TEXTS = (b"nan", b"-Infinity", b"1e999", b"null", b"true", b'""', b"[]", b"{}", b"\xff", b"\\ud800", b"\x1b[2J", b"\0")


class Slow(BaseException):
    """An input that takes too long."""


def mutate(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """A seed with one to eight changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(1 << rng.randrange(4)):
        at, size = rng.randrange(len(data) + 1), min(1 << rng.randrange(12), len(data) + 1)
        kind = rng.randrange(9)
        if kind == 0 and data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + rng.randrange(1, 5)] = rng.randbytes(rng.randrange(5))
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size] * rng.randrange(1, 4)
        elif kind == 4:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[at : at + size] = other[start : start + size]
        elif kind == 5:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) & (1 << 8 * width) - 1
            data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 6:
            data[at : at + rng.randrange(12)] = rng.choice(TEXTS)
        elif kind == 7:  # a number in a text
            digits = [i for i in range(at, min(at + 400, len(data))) if data[i] in b"0123456789"]
            if digits:
                end = digits[0]
                while end < len(data) and data[end] in b"0123456789.e":
                    end += 1
                data[digits[0] : end] = str(rng.choice(NUMBERS)).encode()
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data)


def work(name: str, seconds: float, inputs: int, seed: int, note: Path) -> None:
    """Parse mutated inputs for so long, or so many, and print what came of it as JSON."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "runtime")]
    from edgecodec.errors import EdgecodecError
    from targets import TARGETS

    target = TARGETS[name](note.parent)
    corpus = sorted(path.read_bytes() for path in (HERE / "corpus" / name).glob("*"))
    seeds = [*corpus, *target.seeds]
    target.parse(target.seeds[0])  # what is imported at the first time is no input's time or memory
    rng, verdicts = random.Random(seed), Counter[str]()
    slowest, slowest_input, failures = 0.0, b"", []
    base = _peak()
    warnings.simplefilter("error")
    signal.signal(signal.SIGPROF, _slow)
    written = os.open(note, os.O_WRONLY | os.O_CREAT)
    print("begun", flush=True)
    end, count = time.monotonic() + seconds, 0
    while count < len(seeds) or (count < inputs and time.monotonic() < end):
        data = seeds[count] if count < len(seeds) else mutate(seeds, rng)
        if target.seal is not None and count >= len(seeds) and rng.random() < 0.7:
            data = target.seal(data)
        os.pwrite(written, len(data).to_bytes(8, "little") + data, 0)
        count += 1
        begun = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        try:
            target.parse(data)
            verdict = "read"
        except EdgecodecError as error:
            verdict = type(error).__name__
        except (Exception, Slow) as error:
            verdict = f"FAILED: {type(error).__name__}"
            place = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(f"{verdict} {str(error)[:200]} at {place.filename}:{place.lineno}, {_keep(name, data)}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        took = time.process_time() - begun
        if took > slowest:
            slowest, slowest_input = took, data
        verdicts[verdict] += 1
        if len(failures) >= 20:
            break
    peak = _peak()
    facts = {"target": name, "inputs": count, "verdicts": dict(verdicts.most_common()), "slowest_s": round(slowest, 3)}
    facts |= {
        "slowest_input": hashlib.sha256(slowest_input).hexdigest()[:8],
        "peak_mb": peak >> 10,
        "grown_mb": (peak - base) >> 10,
    }
    print(json.dumps(facts | {"failures": failures}), flush=True)


def _peak() -> int:
    """The most memory that this process ever had, kB; not ru_maxrss, which begins with that of whoever started it."""
    try:
        status = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def _slow(number: int, frame: object) -> None:
    raise Slow(f"more than {MOST_SECONDS:g} s")


def _keep(name: str, data: bytes) -> Path:
    path = HERE / "found" / f"{name}-{hashlib.sha256(data).hexdigest()[:8]}.bin"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def _memory() -> str | None:
    """A folder that no disk holds, where there is one: targets that read files are up to ten times as fast there."""
    shared = Path("/dev/shm")
    return str(shared) if os.access(shared, os.W_OK | os.X_OK) else None


def run(name: str, seconds: float, seed: int, inputs: int = ENOUGH) -> dict[str, object]:
    """What a process of its own found in so much time, or in so many inputs."""
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        note = Path(folder, "input.bin")
        command = [sys.executable, __file__, "--work", name, "--seconds", str(seconds), "--seed", str(seed)]
        command += ["--inputs", str(inputs), "--note", str(note)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            limit = time.monotonic() + START_SECONDS
            while process.poll() is None and time.monotonic() < limit:
                time.sleep(0.05)
                if note.exists():
                    limit = note.stat().st_mtime - time.time() + time.monotonic() + STUCK_SECONDS
            stuck = process.poll() is None
            if stuck:
                process.kill()
            lines = process.stdout.read().splitlines()
        if process.returncode == 0 and len(lines) == 2:
            facts = json.loads(lines[1])
            if facts["grown_mb"] > MOST_MEGABYTES:
                facts["failures"].append(f"memory grew by {facts['grown_mb']} MB")
            return dict(facts)
        noted = note.read_bytes() if note.exists() else b""
        kept = _keep(name, noted[8 : 8 + int.from_bytes(noted[:8], "little")]) if noted else "before the first input"
        what = "stuck" if stuck else f"ended with {process.returncode}"
        return {"target": name, "failures": [f"{what}: {kept}"]}


def main() -> int:
    """Run all targets, or one; 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="for all targets together")
    parser.add_argument("--inputs", type=int, default=ENOUGH, help="for each target at most")
    parser.add_argument("--only", default="", help="one target")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    for option, kind in (("--work", str), ("--seconds", float), ("--note", Path)):
        parser.add_argument(option, type=kind, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.work, chosen.seconds, chosen.inputs, chosen.seed, chosen.note)
        return 0
    sys.path[:0] = [str(HERE), str(HERE.parent / "runtime")]
    from targets import TARGETS

    names = [chosen.only] if chosen.only else list(TARGETS)
    failed, end = False, time.monotonic() + 60 * chosen.minutes
    for number, name in enumerate(names):
        seconds = (end - time.monotonic()) / (len(names) - number)
        facts = run(name, max(0.0, seconds), chosen.seed, chosen.inputs)
        print(json.dumps(facts | {"seed": chosen.seed}), flush=True)
        failed |= bool(facts["failures"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
