"""Runs the commands of runtime/docs/cpp.md, in a folder that looks like the top of the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "runtime" / "docs" / "cpp.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def blocks(heading: str, language: str = "bash") -> list[str]:
    """The blocks under a heading of the page."""
    [section] = re.findall(rf"^##+ {re.escape(heading)}\n(.*?)(?=^## |^### |\Z)", PAGE.read_text(), re.M | re.S)
    return [text for kind, text in _BLOCK.findall(section) if kind == language]


def like_the_top(name: str) -> Path:
    """A folder that looks like the top of the repository, and stays: only what is new is built again."""
    folder = ROOT / "build" / name
    folder.mkdir(parents=True, exist_ok=True)
    for source in ("runtime", "models"):
        if not (folder / source).is_symlink():
            (folder / source).symlink_to(ROOT / source)
    return folder


def shell(script: str) -> list[str]:
    """What runs a block."""
    return ["bash", "-euo", "pipefail", "-c", script]


def without_installing(script: str) -> str:
    """A block without the lines that need root; `make debs` installs."""
    return "\n".join(line for line in script.splitlines() if not line.startswith("apt-get install"))


def write_if_new(path: Path, text: str) -> None:
    """Write a file only where that changes it: what depends on it is else built again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def run(script: str, folder: Path, **environment: str) -> str:
    """A block in the folder; what it says."""
    done = subprocess.run(
        shell(script),
        cwd=folder,
        env=os.environ | environment | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout
