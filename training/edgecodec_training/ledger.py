"""The ledger of a run: what every leg of its training saw, did and reached; kept in the checkpoint, drawn as a picture.

A leg is one uninterrupted stretch on one machine. The ledger of a checkpoint has all legs since the first step, also
those of the runs that it was started from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from edgecodec.durable import new_file

Scores = list[dict[str, float]]  # a row a stage count, see `validation`
LOSSES_A_LEG = 200  # points; older ones are thinned to every second when there are more


@dataclass
class LegEntry:
    """One leg: steps, seconds of audio seen, wall time, machine, processes; losses and scores by step."""

    first_step: int
    machine: str
    last_step: int = 0
    processes: int = 1
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    losses: list[dict[str, float]] = field(default_factory=list)  # {"step": …, loss: mean since the row before}
    validations: list[dict[str, Any]] = field(default_factory=list)  # {"step": …, "scores": Scores}

    def add_losses(self, step: int, measures: dict[str, float]) -> None:
        """Note the losses among the measures of the last steps."""
        self.losses.append({"step": step} | {n[5:]: round(v, 6) for n, v in measures.items() if n.startswith("loss/")})
        if len(self.losses) > LOSSES_A_LEG:
            self.losses = self.losses[1::2]


def to_json(ledger: Sequence[LegEntry]) -> list[dict[str, Any]]:
    """Plain values, for checkpoint.json and the manifest."""
    return [dataclasses.asdict(entry) for entry in ledger]


def from_json(values: Sequence[dict[str, Any]]) -> list[LegEntry]:
    """The inverse of `to_json`; TypeError for unknown or missing keys, msgspec.ValidationError for a wrong type."""
    known = {field.name for field in dataclasses.fields(LegEntry)}
    if unknown := {key for value in values for key in value} - known:
        raise TypeError(f"unknown key {min(unknown)[:60]!r} in the ledger")
    return msgspec.convert(values, list[LegEntry])


def draw(ledger: Sequence[LegEntry], path: Path) -> None:
    """Plot losses and validation scores over steps, legs told apart by shading: a PNG, written whole or not at all."""
    from matplotlib.figure import Figure

    scores = [(v["step"], row) for entry in ledger for v in entry.validations for row in v["scores"]]
    measures = [name for name in (scores[0][1] if scores else {}) if name != "stages"]
    figure = Figure(figsize=(9, 2.2 * (1 + len(measures))), layout="constrained")
    panels = figure.subplots(1 + len(measures), 1, sharex=True, squeeze=False)[:, 0]
    for i, entry in enumerate(ledger):
        for panel in panels:
            panel.axvspan(entry.first_step, entry.last_step, color="0.5", alpha=0.06 + 0.08 * (i % 2), lw=0)
    rows = [row for entry in ledger for row in entry.losses]
    for name in sorted({name for row in rows for name in row} - {"step"}):
        panels[0].plot(*zip(*((r["step"], r[name]) for r in rows if name in r), strict=True), label=name, lw=1)
    panels[0].set(ylabel="loss, weighted", yscale="log")
    for panel, measure in zip(panels[1:], measures, strict=True):
        for stages in sorted({row["stages"] for _, row in scores}):
            line = [(step, row[measure]) for step, row in scores if row["stages"] == stages and measure in row]
            panel.plot(*zip(*line, strict=True), marker=".", lw=1, label=f"{stages:g} stages")
        panel.set_ylabel(measure)
    for panel in panels:
        if panel.lines:
            panel.legend(fontsize="x-small", ncols=4)
        panel.grid(alpha=0.3)
    hours, audio = (sum(getattr(entry, n) for entry in ledger) / 3600 for n in ("wall_seconds", "audio_seconds"))
    panels[0].set_title(f"{len(ledger)} legs, {hours:.2f} h, {audio:.1f} h of audio seen", fontsize="medium")
    panels[-1].set_xlabel("step")
    with new_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
