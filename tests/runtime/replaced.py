"""Replaces a file or a folder, in a process that a test kills: `replaced.py MODULE file|links|folder WHERE [plain]`.

The module is loaded by its path, the old and the new content are few bytes, and the replacement is made in a child
that does nothing else: whatever Python calls to start, and that is not the same twice, the child's calls are.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

MARK = "/begin-or-end"
NEW = b"new"


def main(module: str, kind: str, where: str, *plain: str) -> None:
    spec = importlib.util.spec_from_file_location("durable", module)
    durable = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(durable)
    if plain:  # a system that cannot exchange two folders
        durable._exchange = lambda one, other: False
    if child := os.fork():
        os.waitpid(child, 0)
        return
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # ends the child as SIGKILL would, and not what started it
    os.access(MARK, os.F_OK)
    target = Path(where)
    if kind == "folder":
        with durable.new_folder(target) as partial:
            for name in ("a", "b"):
                (partial / name).write_bytes(NEW)
    else:
        durable.finish_copy(target)
        with durable.new_file(target) as partial:
            partial.write_bytes(NEW)
    os.access(MARK, os.F_OK)


if __name__ == "__main__":
    main(*sys.argv[1:])
