"""The page's modules: what waits to be played, in Node, and that all of them are short."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "runtime" / "web"


def test_what_waits_to_be_played(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Node 20 is missing")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for path in (HERE / "ring.test.js", PAGE / "ring.js"):
        shutil.copy(path, tmp_path)
    command = ["node", "--test", "--test-reporter=spec", "ring.test.js"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "ℹ pass 4" in done.stdout


def test_modules_are_short() -> None:
    for path in PAGE.glob("*.js"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 350 and max(map(len, lines)) <= 120, path.name
