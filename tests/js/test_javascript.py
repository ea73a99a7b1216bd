"""The JavaScript runtime does what the Python runtime does: its own tests, on vectors of Python, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import edgecodec
import numpy as np
import pytest
from edgecodec.files.in_memory import decode_clip
from store import clip

TESTS = sorted(path.name for path in (Path(__file__).parents[2] / "runtime" / "js" / "test").glob("*.test.js"))

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
    assert "ℹ skipped 0" in said and "ℹ pass 0" not in said


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
