"""The house: who may import whom; no circles, no private names abroad, no long modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = {
    "edgecodec": "runtime",
    "edgecodec_export": "export",
    "edgecodec_training": "training",
    "edgecodec_models": "models",
}
LONGEST = 350  # lines

# Each room, and the rooms that it may import. The modules of `edgecodec` itself are its core.
ARROWS = {
    "edgecodec": {"edgecodec"},
    "edgecodec.files": {"edgecodec"},
    "edgecodec.corpus": {"edgecodec", "edgecodec.files"},
    "edgecodec.live": {"edgecodec", "edgecodec.files"},
    "edgecodec.network": {"edgecodec", "edgecodec.files", "edgecodec.live"},
    "edgecodec.evaluation": {"edgecodec", "edgecodec.files", "edgecodec.live"},
    "edgecodec.benchmarks": {"edgecodec", "edgecodec.files", "edgecodec.live"},
    "edgecodec.commands": {
        "edgecodec",
        *(f"edgecodec.{wing}" for wing in ("files", "corpus", "live", "network", "evaluation", "benchmarks")),
    },
    "edgecodec_models": set(),
    "edgecodec_training": {
        "edgecodec.durable",
        "edgecodec.errors",
        "edgecodec.progress",
        "edgecodec.evaluation",
        "edgecodec.corpus",
    },
    "edgecodec_export": {
        "edgecodec_training",
        "edgecodec",
        *(f"edgecodec.{wing}" for wing in ("files", "evaluation", "benchmarks", "commands")),
    },
}


@dataclass(frozen=True)
class Import:
    """One import of a module: what is imported, by absolute name, and where."""

    target: str
    name: str | None  # that is taken from it
    line: int


@cache
def modules() -> dict[str, Path]:
    """Every module of the distribution by its name; packages by theirs."""
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str) -> list[Import]:
    """All imports of a module, those inside functions and for type checkers too."""
    path = modules()[module]
    home = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, None, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = home.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.append(
                    Import(inner, None, node.lineno) if inner in modules() else Import(base, alias.name, node.lineno)
                )
    return found


def room(module: str) -> str:
    """The most exact entry of the arrows that a module lies in."""
    names = module.split(".")
    for length in range(len(names), 0, -1):
        if (name := ".".join(names[:length])) in ARROWS:
            return name
    return names[0]


def ours(module: str) -> Iterator[Import]:
    return (found for found in imports(module) if found.target.partition(".")[0] in SOURCES)


def test_arrows() -> None:
    for module in modules():
        home = room(module)
        for found in ours(module):
            reached = {room(found.target), found.target} & (ARROWS[home] | {home})
            assert reached, f"{module}:{found.line} imports {found.target}"


def test_no_circles() -> None:
    graph = {name: {found.target for found in ours(name)} - {name} for name in modules()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_private_names_abroad() -> None:
    for module, path in modules().items():
        aliases = set()
        for found in ours(module):
            assert not re.match(r"_[^_]", found.name or ""), f"{module}:{found.line} {found.name}"
            aliases.add((found.name or found.target).rpartition(".")[2])
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr) and isinstance(node.value, ast.Name):
                assert node.value.id not in aliases, f"{module}:{node.lineno} {node.value.id}.{node.attr}"


def test_modules_are_short() -> None:
    assert not [name for name, path in modules().items() if len(path.read_text().splitlines()) > LONGEST]
