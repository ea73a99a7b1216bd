"""Programs of the machine that some tests need."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

Need = Callable[..., None]

# A background shell starts its programs with SIGINT ignored, and they would hand that on to the programs that tests
# interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def need() -> Need:
    """`need(complete, packages)`: install Debian packages unless `complete()`.

    Skips where they cannot be had; fails there in continuous integration, where they must be.
    """

    def require(complete: Callable[[], bool], *packages: str) -> None:
        reason = None if complete() else _install(packages) or (None if complete() else "they were not enough")
        if reason is not None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {' '.join(packages)}: {reason}")

    return require


def _install(packages: tuple[str, ...]) -> str | None:
    """What kept Debian packages from being installed, or None."""
    if sys.platform != "linux" or not shutil.which("apt-get"):
        return "this is no Debian that could install them"
    if os.geteuid():
        return "only root can install them"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-q", *words], env=environment, capture_output=True, text=True, check=False, timeout=280
        )
    return None if done.returncode == 0 else f"apt-get failed: {done.stderr[-300:]}"
