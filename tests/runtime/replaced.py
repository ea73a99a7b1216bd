"""Replaces a file or a folder, in a process that a test kills: `replaced.py MODULE file|links|folder WHERE [plain]`.

The module is loaded by its path, and the old and the new content are few bytes, so that nothing but the replacement
itself makes system calls between the two marks.
"""

from __future__ import annotations

import importlib.util
import os
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
