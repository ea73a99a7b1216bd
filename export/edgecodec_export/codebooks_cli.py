"""`edgecodec fit-codebooks`. Heavy imports stay inside the command: listing it costs nothing."""

from __future__ import annotations

import importlib.util
import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from edgecodec.commands.progress import progress_display

if TYPE_CHECKING:
    from .refit import Refitted


class Kind(str, Enum):
    """Fresh codebooks of the classical quantizers."""

    vq = "vq"
    rvq = "rvq"
    pq = "pq"


def fit_codebooks(
    source: Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle, by shipped name or folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the bundle to write.")],
    data: Annotated[
        list[Path], typer.Option(help="Folder or file of audio, or WebDataset shards, as for training; repeatable.")
    ],
    kind: Annotated[
        Kind | None, typer.Option(help="Fresh codebooks in place of the bundle's own: the classical baseline.")
    ] = None,
    size: Annotated[int, typer.Option(min=2, max=65536, help="With --kind: entries of a stage.")] = 1024,
    stages: Annotated[int, typer.Option(min=1, max=128, help="With --kind: stages; vq has one.")] = 8,
    prior: Annotated[
        float, typer.Option(min=0, max=1e6, help="As how many frames each old entry counts: more for little audio.")
    ] = 16.0,
    minutes: Annotated[float, typer.Option(min=0.01, help="Of audio to learn from, at most.")] = 60.0,
    limits: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Also measure and draw the limits of plain VQ on these latents."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of all that is random.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the new bundle; by default, that of its folder.")] = "",
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace a bundle that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Fit the codebooks of a codec to your own audio by k-means; its networks stay. Makes a new bundle.

    The table tells how much of the latents' energy is left after each stage, of audio that was not learned from.

    Example: edgecodec fit-codebooks speech bundles/mine --data audio/mine
    """
    if (kind or limits) and importlib.util.find_spec("sklearn") is None:  # not after minutes
        raise ModuleNotFoundError(name="sklearn")
    from .refit import Refit, refit

    if limits and limits.suffix not in (".svg", ".png"):
        raise typer.BadParameter("must end in .svg or .png", param_hint="--limits")
    request = Refit(
        source,
        target,
        name or target.absolute().name,
        data,
        kind=kind.value if kind else None,
        size=size,
        stages=1 if kind is Kind.vq else stages,
        prior=prior,
        minutes=minutes,
        seed=seed,
        force=force,
    )
    with progress_display() as progress:
        made = refit(request, progress)
    found = made.facts()
    if limits:
        from .codebook_limits import draw, measured_limits

        with progress_display() as progress:
            measured = measured_limits(made.latents, seed=seed, progress=progress)
        draw(measured, limits)
        found |= {"limits": measured.facts()}
    if as_json:
        print(json.dumps(found | {"bundle": str(target)}, indent=1))
        return
    print("\n".join(_table(made)))
    print(f"fitted to {len(made.latents.learned):,} frames, scored on {len(made.latents.scored):,} others")
    print(f"bundle: {target}, which goes by the fingerprint {made.fingerprint}")
    if made.lost_entropy_model:
        print(f"its entropy model knew the old codes and is left out: edgecodec train-entropy {target} --data …")
    if limits:
        print("\n".join(measured.lines()))


def _table(made: Refitted) -> list[str]:
    """A line a stage: energy left, entries used and perplexity, before and after; then mel distances."""
    from edgecodec.evaluation.score_tables import markdown

    cells = [["stage", "kbps", "% left before", "after", "used before", "after", "perplexity before", "after"]]
    before = {score.stage: score for score in made.before.stages}
    for new in made.after.stages:
        old = before.get(new.stage)
        cells.append(
            [
                str(new.stage),
                f"{new.kbps:.3g}",
                *(f"{100 * s.left:.2f}" if s else "-" for s in (old, new)),
                *(str(s.used) if s else "-" for s in (old, new)),
                *(f"{s.perplexity:.0f}" if s else "-" for s in (old, new)),
            ]
        )
    heard = [["stages", "kbps", "mel distance before", "after"]]
    earlier = {row.stages: row.mel_distance for row in made.before.heard}
    for row in made.after.heard:
        old_distance = f"{earlier[row.stages]:.4f}" if row.stages in earlier else "-"
        heard.append([str(row.stages), f"{row.kbps:.3g}", old_distance, f"{row.mel_distance:.4f}"])
    return [*markdown(cells), "", *markdown(heard)]
