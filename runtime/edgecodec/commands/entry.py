"""Where the command `edgecodec` begins: with nothing imported yet, so that Ctrl-C is answered from the first moment."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command."""
    try:
        from .main import main as run

        run()
    except KeyboardInterrupt:
        print("edgecodec: interrupted", file=sys.stderr)
        sys.exit(130)
