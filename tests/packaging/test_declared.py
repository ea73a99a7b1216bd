"""What is imported is declared: by the base install, or by the extra that a folder belongs to."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
WINGS = ("files", "live", "network", "benchmarks", "commands")
EXTRAS = {  # that are needed for all that a folder does
    **{f"runtime/edgecodec/{wing}": "" for wing in WINGS},
    "runtime/edgecodec/files": "codes",
    "runtime/edgecodec/network": "secure",
    "runtime/edgecodec/evaluation": "eval,visqol",
    "export/edgecodec_export": "export,hub,codebooks",
    "training/edgecodec_training": "train",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = metadata.packages_distributions()


def declared(requirements: list[str]) -> set[str]:
    """Names of the distributions that are asked for, lower case with dashes; our own extras are followed."""
    names = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        names.add(name.lower().replace("_", "-"))
        if name == "edgecodec":
            names |= declared(
                [wanted for extra in extras.split(",") for wanted in PROJECT["optional-dependencies"][extra]]
            )
    return names


def imported(folder: Path) -> dict[str, str]:
    """Top-level names that the files of a folder import, and one file of each; not our own and not Python's."""
    found = {}
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            for name in (module.partition(".")[0] for module in modules):
                if name not in sys.stdlib_module_names and not name.startswith("edgecodec"):
                    found[name] = str(file)
    return found


@pytest.mark.parametrize("folder", EXTRAS)
def test_what_is_imported_is_declared(folder: str) -> None:
    extras = [f"edgecodec[{EXTRAS[folder]}]"] if EXTRAS[folder] else []
    names = declared([*PROJECT["dependencies"], *extras])
    for module, file in imported(ROOT / folder).items():
        distributions = {name.lower().replace("_", "-") for name in DISTRIBUTIONS.get(module, [module])}
        assert distributions & names, f"{file} imports {module}, which no extra of {folder} declares"
