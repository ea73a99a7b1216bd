"""The lowest versions that the base install declares: they can be installed together, and edgecodec works with them.

A version that has no wheel for the Python that runs this is replaced by the lowest one that has; the test says so.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests" / "runtime"
TOOLS = ("pytest", "pytest-timeout", "hypothesis")
CHOSEN = {  # a fast part of each file, "" for all of it
    "test_api.py": "",
    "test_codec.py": "not split",
    "test_bitstream.py": "come_back or truncation",
    "test_files.py": "(rate_channels and 44100) or other_formats or (pipes_carry and FLOAT) or links or loud or exists",
    "test_cli.py": "entry_point or real_pipes or version or usage_errors or info or verify or without_a_terminal",
}


def bounds() -> dict[str, str]:
    """The lowest declared version of each package that the base install asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {}
    for text in project["dependencies"]:
        requirement = Requirement(text)
        [lowest] = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        found[requirement.name] = lowest
    return found


def pip(python: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """This environment's pip on another one, which then needs none."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", *args]
    return subprocess.run([*command, "--only-binary", ":all:"], capture_output=True, text=True, check=False)


def install(python: Path, wheel: Path, versions: dict[str, str]) -> subprocess.CompletedProcess[str]:
    tools = [f"{name}=={metadata.version(name)}" for name in TOOLS]
    exact = [f"{name}=={version}" for name, version in versions.items()]
    return pip(python, "install", "--quiet", "--no-compile", str(wheel), *tools, *exact)


def lowest_with_a_wheel(python: Path, name: str, bound: str) -> str:
    """The lowest version from `bound` on that has a wheel for this Python."""
    listed = pip(python, "index", "versions", name)
    [line] = [line for line in listed.stdout.splitlines() if line.startswith("Available versions: ")]
    versions = map(Version, line.removeprefix("Available versions: ").split(", "))
    return str(min(version for version in versions if version >= Version(bound)))


@pytest.mark.timeout(600)  # about a minute, most of it downloads
def test_the_runtime_works_with_the_lowest_versions(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv.create(tmp_path / "lowest")
    python = tmp_path / "lowest" / "bin" / "python"
    wanted = bounds()
    if install(python, wheel, wanted).returncode != 0:
        wanted = {name: lowest_with_a_wheel(python, name, bound) for name, bound in wanted.items()}
        with capsys.disabled():
            for name, bound in bounds().items():
                if Version(wanted[name]) != Version(bound):
                    print(f"\n{name} {wanted[name]} stands for {bound}, which has no wheel for this Python")
        again = install(python, wheel, wanted)
        assert again.returncode == 0, again.stderr
    code = "import sys; from importlib import metadata; print(*map(metadata.version, sys.argv[1:]))"
    listed = subprocess.run([python, "-c", code, *wanted], capture_output=True, text=True, check=True)
    assert [Version(text) for text in listed.stdout.split()] == [Version(text) for text in wanted.values()]

    for file, chosen in CHOSEN.items():
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / file), "-k", chosen]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{file}\n{ran.stdout[-3000:]}{ran.stderr[-1000:]}"
