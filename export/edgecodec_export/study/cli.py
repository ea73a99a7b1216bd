"""`edgecodec study`. Heavy imports stay inside the command, so that listing it costs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from edgecodec.commands.progress import progress_display


def study(
    plan: Annotated[
        str,
        typer.Argument(metavar="STUDY", help="TOML file, or a shipped study: quantizers, denoising, ablations."),
    ],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="Folder of the study; it goes on there.")] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Audio to train on, as for edgecodec train; repeatable.")
    ] = None,
    valid: Annotated[Path | None, typer.Option(help="Folder of clips that everything is measured on.")] = None,
    networks: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Encoder and decoder that all variants begin with.")
    ] = None,
    noise: Annotated[
        Path | None, typer.Option(help="Folder or file of noise that codecs hear behind the clips of --valid.")
    ] = None,
    snr: Annotated[float | None, typer.Option(min=-30, max=60, help="Of that noise, dB.")] = None,
    steps: Annotated[int, typer.Option(min=0, help="Of training each variant, instead of the study's.")] = 0,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Instead of the study's seeds; repeatable.")] = None,
    clips: Annotated[
        int | None, typer.Option(min=0, help="Clips to measure on, instead of the study's (0: all).")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="VARIANT", help="Only this variant; repeatable.")] = None,
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Or only report on what is measured already.")
    ] = True,
    table: Annotated[
        bool, typer.Option("--table", help="STUDY is the study.csv of a study: only make its table again.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="With --table: also draw the curves.")
    ] = None,
    device: Annotated[str, typer.Option(help="To train on: cpu, cuda, or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON: rows, words and what failed.")] = False,
) -> None:
    """Train quantizers under equal conditions, measure their bundles, and put them into one table.

    Each variant is trained, exported and measured; the same command goes on after Ctrl-C. OUT then has study.csv,
    study.md and study.html.

    Example: edgecodec study quantizers studies/quantizers --data audio/train --valid audio/valid
    """
    if table:
        from .rows import read_csv
        from .table import as_data, markdown

        rows = read_csv(Path(plan))
        if picture is not None:
            from edgecodec.durable import new_file

            from .report import picture as drawn

            with new_file(picture) as partial:
                partial.write_text(drawn(rows), encoding="utf-8")
        print(json.dumps(as_data(rows), indent=1) if as_json else markdown(rows))
        return
    if picture is not None:
        raise typer.BadParameter("goes with --table", param_hint="--picture")
    if out is None:
        raise typer.BadParameter("is missing: a folder for the results", param_hint="OUT")
    import dataclasses
    import sys

    import torch
    from edgecodec.errors import ConfigError
    from edgecodec.evaluation.measures import scoring_lacks

    from .job import run_study
    from .plan import load_study
    from .runs import Place
    from .table import as_data

    if missing := scoring_lacks("matplotlib"):  # not after hours
        raise ModuleNotFoundError(name=missing)
    torch.set_num_threads(threads)
    wanted = load_study(plan)
    wanted = dataclasses.replace(
        wanted,
        steps=steps or wanted.steps,
        seeds=tuple(seeds or wanted.seeds),
        clips=wanted.clips if clips is None else clips,
        networks=str(networks or wanted.networks),
        noise=str(noise or wanted.noise),
        snr_db=wanted.snr_db if snr is None else snr,
    )
    audio, held_out = tuple(data or wanted.data), valid or (Path(wanted.valid) if wanted.valid else None)
    if held_out is None or not (audio or not train):
        raise ConfigError(f"{plan}: names no audio: give --data and --valid")

    def tell(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    try:
        with progress_display() as progress:
            place = Place(audio, held_out, out, device)
            outcome = run_study(wanted, place, only=only or (), train=train, tell=tell, progress=progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; what is done stays in {out}: the same command goes on") from None
    if as_json:
        print(json.dumps({"report": str(outcome.report), "failed": outcome.failed} | as_data(outcome.rows), indent=1))
    else:
        print(outcome.table)
        for name, line in outcome.residuals.items():
            print(f"{name}: {line}")
        print(f"report: {outcome.report}")
    if outcome.failed:
        raise typer.Exit(1)
