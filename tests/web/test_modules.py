"""The page's modules in Node: what waits to be played, and what the worker does; and that all are short."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from edgecodec.commands.site import write_site

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "runtime" / "web"


@pytest.mark.parametrize(("name", "tests"), [("ring", 4), ("live_stream", 8)])
def test_modules_in_node(packages: None, tmp_path: Path, name: str, tests: int) -> None:
    """With the tiny bundle, in a folder of the page."""
    write_site(tmp_path, str(HERE.parent / "runtime" / "tiny_bundle"), None, print)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(HERE / f"{name}.test.js", tmp_path)
    command = ["node", "--test", "--test-reporter=spec", f"{name}.test.js"]
    environment = {**os.environ, "EDGECODEC_PACKAGE": str(PAGE.parent / "js")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert f"ℹ pass {tests}" in done.stdout


def test_modules_are_short() -> None:
    for path in PAGE.glob("*.js"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 350 and max(map(len, lines)) <= 120, path.name
