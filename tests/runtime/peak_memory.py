"""The most memory that a command takes: this file, as a program, runs it and then says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def peak_megabytes(*args: str, cwd: Path) -> float:
    """Of `edgecodec` with these arguments, which must succeed, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *args], cwd=cwd, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


def main() -> None:
    from edgecodec.commands.main import app

    try:
        app(sys.argv[1:])
    except SystemExit as exit:
        assert not exit.code, exit.code
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))  # ru_maxrss begins with ours


if __name__ == "__main__":
    main()
