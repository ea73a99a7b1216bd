"""What `make test` installs, and what tests do without it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTED = re.search(r"^DEBS := (.*)$", (ROOT / "Makefile").read_text().replace("\\\n", ""), re.MULTILINE)[1]
LONG = re.compile(r"\$\(if \$\(EVERYTHING\),(.*?)\)")  # what only tests that take minutes need
DEBS = LONG.sub(r"\1" if os.environ.get("EVERYTHING") else "", LISTED).split()


@pytest.mark.parametrize(("variable", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_test_whose_programs_are_missing(need, monkeypatch: pytest.MonkeyPatch, variable: str, outcome: type) -> None:
    monkeypatch.setenv("CI", variable)
    need(lambda: True, "speex")
    with pytest.raises(outcome, match="programs are missing: apt-get install speex"):
        need(lambda: False, "speex")


def test_all_that_tests_need_is_installed_by_make() -> None:
    """Every package that a test names."""
    named = set()
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text()
        if path != Path(__file__):
            named |= set(re.findall(r'need\(lambda: [^\n]*, "([a-z0-9-]+)"\)', text))
            for packages in re.findall(r"^PACKAGES = \((.*)\)$", text, re.MULTILINE):
                named |= set(re.findall(r'"([^"]+)"', packages))
    assert len(named) > 3
    assert named <= set(LONG.sub(r"\1", LISTED).split())


@pytest.mark.parametrize("installed", [True, False])
def test_make_debs_never_fails(tmp_path: Path, installed: bool) -> None:
    """With a dpkg that knows all packages, or none, and an apt-get that fails."""
    for name, code in (("dpkg", 0 if installed else 1), ("apt-get", 100), ("id", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho 0\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    command = ["make", "--no-print-directory", "debs", f"PATH={tmp_path}:/usr/bin:/bin"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said == [] if installed else said[-1] == f"Tests that need programs of {' '.join(DEBS)} are skipped."
