"""The JavaScript runtime does what the Python runtime does: its own tests, on vectors of Python, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = sorted(path.name for path in (Path(__file__).parents[2] / "runtime" / "js" / "test").glob("*.test.js"))


@pytest.mark.parametrize("name", TESTS)
def test_the_package(node, name: str) -> None:
    done = node("--test", "--test-reporter=spec", f"test/{name}")
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "ℹ skipped 0" in done.stdout and "ℹ pass 0" not in done.stdout
