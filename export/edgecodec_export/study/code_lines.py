"""How long the code of a quantizer is, counted in its source: lines with code, without docstrings and comments."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import msgspec
from edgecodec_training import codebook_learning, codebook_search, quantizer, quantizers
from edgecodec_training.quantizer import Kind, QuantizerConfig
from edgecodec_training.quantizers import build_quantizer

_MODULES = {module.__name__ for module in (codebook_learning, codebook_search, quantizer, quantizers)}


class CodeLines(msgspec.Struct, frozen=True):
    """Lines of the class of a kind alone, and with all that it names in the modules of quantizers."""

    own: int
    all: int


@functools.cache
def code_lines(kind_name: Kind) -> CodeLines:
    """Of a kind, as its source is now."""
    smallest = QuantizerConfig(kind=kind_name, max_stages=1, dropout_stages=(1,), codebook_size=2)
    kind = type(build_quantizer(smallest, 2))
    found: dict[str, Any] = {}
    _follow(kind, found)
    return CodeLines(own=_count(kind), all=sum(_count(thing) for thing in found.values()))


def _follow(thing: Any, found: dict[str, Any]) -> None:
    """Add a class or function, and what it names or derives from, in the modules of quantizers."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    if name in found:
        return
    found[name] = thing
    for named in _named(thing):
        _follow(named, found)


def _named(thing: Any) -> Iterator[Any]:
    known = vars(sys.modules[thing.__module__])
    for node in ast.walk(_tree(thing)):
        other = known.get(node.id) if isinstance(node, ast.Name) else None
        if isinstance(other, (type, FunctionType)) and other.__module__ in _MODULES:
            yield other


def _tree(thing: Any) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(thing)))


def _count(thing: Any) -> int:
    """Lines that any token of code stands on."""
    text = textwrap.dedent(inspect.getsource(thing))
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False) is not None:
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(1 for n, line in lines if n not in documented and line.strip() and not line.strip().startswith("#"))
