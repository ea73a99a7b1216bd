"""`python -m edgecodec` is the command `edgecodec`."""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    runpy.run_module("edgecodec.commands", run_name="__main__")  # by name: the core imports no wing
