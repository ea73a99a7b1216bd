"""How long work says how far it is: a callable that is handed in. No wing knows the command line."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float, float | None], None]
"""Told what is being done, how much of it is done, and of how much (None where that is unknown)."""


def silent(what: str, done: float, of: float | None) -> None:
    """A `Progress` that says nothing."""
