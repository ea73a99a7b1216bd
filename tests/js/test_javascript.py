"""The JavaScript runtime does what the Python runtime does: its own tests, on vectors of Python, and back."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import edgecodec
import numpy as np
import pytest
from edgecodec.files.in_memory import decode_clip
from store import PACKAGE, clip

TESTS = sorted(path.name for path in (PACKAGE / "test").glob("*.test.js"))

Tested = Callable[[str], str]


@pytest.fixture(scope="session")
def tested(node) -> Tested:
    """`tested(name)`: what a file of tests said, which is run once and must pass whole."""

    @cache
    def run(name: str) -> str:
        done = node("--test", "--test-reporter=spec", f"test/{name}")
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return done.stdout

    return run


@pytest.mark.parametrize("name", TESTS)
def test_the_package(tested: Tested, name: str) -> None:
    said = tested(name)
    print(said)
    exact = platform.machine() in ("x86_64", "AMD64")
    assert ("ℹ skipped 0" in said or not exact) and "ℹ pass 0" not in said


def test_python_reads_packets_that_javascript_made(tested: Tested, vectors: Path) -> None:
    tested("files.test.js")
    codec, audio = edgecodec.load("speech"), clip()[:9600]
    form = codec.packet_format()
    stream = codec.encoder_stream(stages=5, redundancy=2, frames_per_packet=2)
    ours = [form.to_bytes(packet) for packet in stream.push(audio) + stream.flush()]
    made = [bytes.fromhex(line) for line in (vectors / "made" / "packets.txt").read_text().split()]
    assert made == ours
    codes = np.array(json.loads((vectors / "made" / "codes.json").read_text()))
    read = np.concatenate([form.from_bytes(data).codes for data in made], axis=2)
    assert np.array_equal(read.ravel(), codes)
    assert np.array_equal(codes, codec.encode(audio, stages=5).ravel())


def test_python_reads_files_of_another_rate(tested: Tested, vectors: Path) -> None:
    """JavaScript resamples by its live filter, Python by soxr: the sound is alike, and stands at its time."""
    tested("files.test.js")
    audio = decode_clip(edgecodec.load("speech"), (vectors / "made" / "other_rate.edgc").read_bytes())[0]
    theirs = np.fromfile(vectors / "made" / "other_rate.f32", "<f4")
    assert len(audio) == len(theirs) == len(clip())
    assert np.sum((audio - theirs) ** 2) < 1e-3 * np.sum(audio**2)


def test_strict_typescript_takes_the_types(node) -> None:
    done = node("node_modules/typescript/bin/tsc", "-p", "test/types")
    assert done.returncode == 0, done.stdout
    for path in (PACKAGE / "src").glob("*.d.ts"):
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        assert not re.search(r"\bany\b", code), path.name


def test_packages_come_from_the_registry_alone() -> None:
    """By their digests; no script of theirs runs."""
    lock = json.loads((PACKAGE / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages and all(package["integrity"].startswith("sha512-") for package in packages)
    registry = "https://registry.npmjs.org/"
    assert all(package.get("resolved", registry).startswith(registry) for package in packages)
    assert "npm ci --ignore-scripts" in (PACKAGE.parents[1] / "Makefile").read_text()
    assert "dependencies" not in json.loads((PACKAGE / "package.json").read_text())


def test_make_npm_never_fails(tmp_path: Path) -> None:
    """With an npm that fails, and packages that are older than their list."""
    (tmp_path / "npm").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    command = ["make", "--no-print-directory", "npm", f"PATH={tmp_path}:/usr/bin:/bin", f"NODE_MODULES={tmp_path}"]
    done = subprocess.run(command, cwd=PACKAGE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == "Tests of runtime/js, which need Node 20 and npm packages, are skipped.\n"


def test_speed_beside_python(node) -> None:
    """One frame, encoded and decoded at 8 stages, one thread; said, not judged."""
    codec, audio, times = edgecodec.load("speech"), clip(24_000), []
    encoder, decoder = codec.encoder_stream(stages=8), codec.decoder_stream()
    for i in range(500):
        at, start = i * 320 % 23_680, time.perf_counter()
        decoder.push(encoder.push(audio[at : at + 320])[0])
        times.append(1000 * (time.perf_counter() - start))
    print(f"\nPython: p10 {np.percentile(times, 10):.2f} ms, p50 {np.percentile(times, 50):.2f} ms a frame")
    for kind in ("native", "wasm"):
        done = node("test/speed.js", kind)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        print(
            "JavaScript, {}: p10 {p10:.2f} ms, p50 {p50:.2f} ms a frame, the first {first:.0f}; load {loading:.0f} ms, "
            "{megabytes:.0f} MB".format(kind, **said)
        )


def test_modules_are_short() -> None:
    for path in [*(PACKAGE / "src").glob("*.js"), *(PACKAGE / "test").glob("*.js"), *(PACKAGE / "bin").glob("*.js")]:
        lines = path.read_text().splitlines()
        assert len(lines) <= 350 and max(map(len, lines)) <= 120, path.name
