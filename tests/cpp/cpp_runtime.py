"""The C++ runtime as tests reach it: a program that answers what Python asks, a JSON object a line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np


def hexed(array: np.ndarray) -> str:
    return np.ascontiguousarray(array).tobytes().hex()


class RefusedError(Exception):
    """What the C++ runtime threw."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Cpp:
    """The program, asked one thing after another. An end before its time is a crash, and fails the test."""

    def __init__(self, program: Path, library: Path) -> None:
        environment = os.environ | {
            "EDGECODEC_ONNXRUNTIME": str(library),
            "ASAN_OPTIONS": "max_allocation_size_mb=512",
        }
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, what: str, **fields: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **fields}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the program ended at {what!r}: {self._process.wait()}"
        answer = json.loads(line)
        if "error" in answer:
            assert "\n" not in answer["message"]
            raise RefusedError(answer["error"], answer["message"])
        return answer["answer"]

    def close(self) -> None:
        """End it; what it leaks of its own or finds at its end makes it fail."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(60) == 0
