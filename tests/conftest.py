"""Where tests find modules beside them, programs they need, and how programs that they start hear Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Need = Callable[..., None]

# What tests import that is no test: pytest's importlib mode finds it nowhere.
sys.path += [str(Path(__file__).parent / folder) for folder in ("adapters", "export", "live", "runtime")]

# A background shell starts its programs with SIGINT ignored, and they would hand that on to the programs that tests
# interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # nohup does the same with this one
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def need() -> Need:
    """`need(complete, packages)`: skip unless `complete()`, and say which Debian packages would be enough.

    In continuous integration, where they must be there, it fails instead. `make debs` installs them.
    """

    def require(complete: Callable[[], bool], *packages: str) -> None:
        if not complete():
            missing = f"programs are missing: apt-get install {' '.join(packages)}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)

    return require
