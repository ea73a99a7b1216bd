"""Node, the npm packages that `make npm` installs, and vectors that both runtimes must agree on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from store import PACKAGE

LEAST_NODE = 20

Node = Callable[..., subprocess.CompletedProcess[str]]


def missing() -> str | None:
    """What the tests of the JavaScript runtime lack here."""
    node = shutil.which("node")
    if node is None:
        return f"Node {LEAST_NODE} is missing"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < LEAST_NODE:
        return f"Node {LEAST_NODE} or newer is needed, not {version.strip()}"
    if not (PACKAGE / "node_modules" / "onnxruntime-node").is_dir():
        return "npm packages are missing: make npm"
    return None


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Node:
    """`node(*words)`: runs Node in the package's folder, on the vectors; skips, or in continuous integration fails."""
    lacking = missing()
    if lacking is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(lacking)
    vectors = request.getfixturevalue("vectors")

    def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "EDGECODEC_VECTORS": str(vectors), "FORCE_COLOR": "0"}
        settings = {"cwd": PACKAGE, "env": environment, "check": False, "capture_output": True, "text": True}
        return subprocess.run(["node", *map(str, words)], **(settings | options))

    return run


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of vectors, in which the tests of Node leave what they made in `made/`."""
    from vectors import write_vectors

    folder = tmp_path_factory.mktemp("vectors")
    (folder / "made").mkdir()
    write_vectors(folder)
    return folder
