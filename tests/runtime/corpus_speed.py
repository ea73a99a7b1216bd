"""What many files cost: `corpus_speed.py FOLDER [--rounds N] [--only npz]`, some audio in FOLDER; two cores needed.

One worker and two in turns, the graphs alone for the same files in one process before and after the one, and the peak
memory of a worker. Codes are arrays of 8 stages, and files of 6 kbps of variable rate. A job counts from its start to
its last result: starting the workers, opening, decoding and resampling audio, and writing. The graphs alone are, of
arrays, `Codec.encode` of each file whole, which lies in memory at the rate of the codec; of files of variable rate, the
calls of graphs that encoding them makes. Last, shards and tables of codes, and how long the loaders of the page take to
read them.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import edgecodec
import numpy as np
from edgecodec.corpus.inputs import in_folder
from edgecodec.files.at_codec_rate import AtCodecRate
from edgecodec.files.audio import INPUT_SUFFIXES, open_audio
from edgecodec.files.encoding import Rate
from edgecodec.files.transcode import encode_audio
from edgecodec.sessions import Sessions

FORMATS = {"npz": ["-q", "8"], "edgc": ["-b", "6"]}


def job(folder: str, bundle: str, form: str, workers: int) -> tuple[float, float, int]:
    """Seconds of audio, seconds from the first file to the last, and the peak resident memory of a worker in MB."""
    with tempfile.TemporaryDirectory() as out:
        call = [sys.executable, "-m", "edgecodec", "encode", folder, out, "--recursive", "--bundle", bundle, "--json"]
        call += ["--effort", "fast", "--format", form, "--workers", str(workers), *FORMATS[form]]
        with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            peak = 0
            while process.poll() is None:
                peak = max([peak, *(peak_memory(pid) for pid in workers_of(process.pid))])
                time.sleep(0.05)
            assert process.stdout is not None
            done = json.loads(process.stdout.read())
    assert not done["failed"], done["failures"]
    return done["hours"] * 3600, done["elapsed_seconds"], peak


def workers_of(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def peak_memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024
    except (OSError, StopIteration):
        return 0


def graphs_alone(folder: str, bundle: str, form: str = "npz") -> float:
    """Seconds that the graphs take for all files; nothing else is counted."""
    codec, spent = edgecodec.load(bundle), 0.0
    if form == "edgc":
        return in_calls_of_graphs(codec, folder)
    for one in in_folder(folder, INPUT_SUFFIXES):
        with open_audio(one.path) as audio:
            clip = np.concatenate([*AtCodecRate(audio, codec.sample_rate, mono=True).blocks()], axis=1)
        begin = time.perf_counter()
        codec.encode(clip, stages=8, effort="fast")
        spent += time.perf_counter() - begin
    return spent


def in_calls_of_graphs(codec: edgecodec.Codec, folder: str) -> float:
    """Seconds in onnxruntime while all files are encoded at 6 kbps of variable rate."""
    run, spent = Sessions._run, 0.0

    def timed(self: Sessions, graph: str, **inputs: Any) -> list[Any]:
        nonlocal spent
        begin = time.perf_counter()
        outputs = run(self, graph, **inputs)
        spent += time.perf_counter() - begin
        return outputs

    with patch.object(Sessions, "_run", timed):
        for one in in_folder(folder, INPUT_SUFFIXES):
            with open_audio(one.path) as audio:
                encode_audio(codec, audio, io.BytesIO(), rate=Rate(kbps=6.0))
    return spent


def loaded(folder: str, bundle: str, form: str, loader: str, rounds: int) -> float:
    """Seconds in which one worker makes codes of all files, to those in which a loader of the page reads them."""
    page = (Path(__file__).parents[2] / "runtime" / "docs" / "corpora.md").read_text()
    known: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        if "IterableDataset" in block:
            exec(re.split(r"\n(?:loader|assert)\b", block)[0], known)
    with tempfile.TemporaryDirectory() as out:
        call = [sys.executable, "-m", "edgecodec", "encode", folder, out, "--recursive", "--bundle", bundle, "--json"]
        call += ["--effort", "fast", "--workers", "1", "--format", form, "-q", "8"]
        done = json.loads(subprocess.run(call, capture_output=True, check=True).stdout)
        took = []
        for _ in range(rounds):
            begin = time.perf_counter()
            codes = sum(codes.numel() for codes in known[loader](out))
            took.append(time.perf_counter() - begin)
    assert codes > 8 * 70 * done["hours"] * 3600
    return float(done["elapsed_seconds"] / statistics.median(took))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--bundle", default="speech")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[*FORMATS, "loaders"], help="a part of it")
    asked = parser.parse_args()
    folder, bundle, rounds = asked.folder, asked.bundle, asked.rounds
    for form in [form for form in FORMATS if asked.only in (None, form)]:
        one: list[float] = []
        two: list[float] = []
        alone: list[float] = []
        peaks: list[int] = []
        for _ in range(rounds):
            before = graphs_alone(folder, bundle, form)
            seconds, elapsed, peak = job(folder, bundle, form, 1)
            alone.append((before + graphs_alone(folder, bundle, form)) / 2)
            _, both, another = job(folder, bundle, form, 2)
            one, two, peaks = [*one, elapsed], [*two, both], [*peaks, peak, another]
        found = {
            "minutes": seconds / 60,
            "one_worker_x_real_time": seconds / statistics.median(one),
            "two_workers_to_one": statistics.median(a / b for a, b in zip(one, two, strict=True)),
            "graphs_alone_x_real_time": seconds / statistics.median(alone),
            "share_of_graphs_alone": statistics.median(a / b for a, b in zip(alone, one, strict=True)),
            "peak_mb_a_worker": max(peaks),
        }
        print(json.dumps({form: found}), flush=True)
    if asked.only in (None, "loaders"):
        for form, loader in (("webdataset", "Codes"), ("parquet", "Table")):
            print(json.dumps({f"{form}_made_to_loaded": loaded(folder, bundle, form, loader, rounds)}), flush=True)


if __name__ == "__main__":
    main()
