"""A second of mutated input for every parser; `make fuzz MINUTES=60` goes on."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def module(name: str):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # dataclasses look there
    spec.loader.exec_module(found)
    return found


fuzz, targets = module("fuzz"), module("targets")


@pytest.mark.parametrize("name", targets.TARGETS)
def test_nothing_but_errors_of_the_tree(name: str) -> None:
    """First what once failed, as it is; then mutations of it and of sound inputs."""
    facts = fuzz.run(name, 1.0, 1)
    assert not facts["failures"]
    assert facts["inputs"] > len(list((HERE / "corpus" / name).glob("*")))
    assert facts["verdicts"].get("read") and len(facts["verdicts"]) > 1  # both kinds came


def test_mutations_come_of_the_seed() -> None:
    one, other, third = (
        [fuzz.mutate([b"abc" * 50, b"{}", b""], random.Random(seed)) for _ in range(3)] for seed in (1, 1, 2)
    )
    assert one == other != third


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError(7)", "FAILED: KeyError"),
        ("\n    while True: pass", "FAILED: Slow"),
        ("__import__('os').abort()", "ended with -6"),
        ("warnings.warn('x')", "FAILED: UserWarning"),
        ("kept.append(bytearray(600 << 20))", "memory grew by"),
    ],
)
def test_what_is_wrong_is_seen(tmp_path: Path, body: str, message: str) -> None:
    """Negative controls, with a target that fails at every input but the first."""
    (tmp_path / "fuzz.py").write_text((HERE / "fuzz.py").read_text())
    (tmp_path / "targets.py").write_text(
        "import warnings\nkept = []\n"
        "class bad:\n    seal = None\n    seeds = [b'fine']\n    def __init__(self, folder): self.count = 0\n"
        "    def parse(self, data):\n        self.count += 1\n        if self.count == 2: self.fail()\n"
        f"    def fail(self):\n        {body.strip()}\n"
        "TARGETS = {'bad': bad}\n"
    )
    found = module_at(tmp_path / "fuzz.py").run("bad", 0.0, 1)
    assert len(found["failures"]) == 1 and message in found["failures"][0]


def module_at(path: Path):
    spec = importlib.util.spec_from_file_location("other_fuzz", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
