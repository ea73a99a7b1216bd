"""`edgecodec train`. Heavy imports stay inside the command, so that listing it costs nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .training_loop import Status


def train(
    data: Annotated[
        list[str],
        typer.Option(help="Folder, audio file, WebDataset shards by pattern or URL (s3://…/{00..99}.tar); repeatable."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoints and TensorBoard log.")],
    config: Annotated[
        str, typer.Option(help="Configuration: edge, edge-denoise, edge-gpu, seanet, or a TOML file.")
    ] = "edge",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value: --set run.batch_size=64")
    ] = None,
    valid: Annotated[
        Path | None, typer.Option(help="Folder of clips that are scored and listened to on the way.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Begin from the weights of this checkpoint, in a new run.")] = None,
    networks: Annotated[
        Path | None,
        typer.Option(help="Begin from encoder and decoder of this checkpoint alone, with codebooks of their own."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT where it stopped.")] = False,
    steps: Annotated[int, typer.Option(min=0, help="Train up to this step instead of the configured one.")] = 0,
    minutes: Annotated[
        float, typer.Option(min=0, help="Stop after so many minutes (0: when the steps are done).")
    ] = 0.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch; more than one rarely pays.")] = 1,
) -> None:
    """Train a codec.

    Example: edgecodec train --config edge --data audio/train --valid audio/valid --out runs/speech

    Several processes: torchrun --nproc-per-node 4 --no-python edgecodec train --device cuda …
    """
    import dataclasses

    import torch
    from edgecodec.errors import ConfigError

    from .checkpoint import latest, load_checkpoint
    from .config import load_config, override
    from .distributed import on_first_rank
    from .training_loop import Leg, train_leg

    if sum(map(bool, (start, networks, resume))) > 1:
        raise typer.BadParameter("choose one", param_hint="--start, --networks, --resume")
    torch.set_num_threads(threads)
    checkpoint = None
    if resume:
        checkpoint = load_checkpoint(out)
        if checkpoint.training is None:
            raise ConfigError(f"{out}: a checkpoint without optimizer state cannot be resumed: use --start {out}")
        chosen = checkpoint.config
    elif out.exists() and (latest(out) is not None or not out.is_dir()):
        what = "holds a run: go on with --resume, or" if out.is_dir() else "is no folder:"
        raise ConfigError(f"{out} {what} choose another --out")
    else:
        chosen = load_config(config)
        if start is not None:
            checkpoint = load_checkpoint(start)
            checkpoint.training = None
            chosen = dataclasses.replace(chosen, model=checkpoint.config.model)
        elif networks is not None:
            checkpoint = load_checkpoint(networks).networks()
            model = dataclasses.replace(checkpoint.config.model, quantizer=chosen.model.quantizer)
            chosen = dataclasses.replace(chosen, model=model)
    changes = [*(settings or ()), *([f"run.steps={steps}"] if steps else ())]
    leg = Leg(data, out, valid, device, minutes)
    try:
        last = train_leg(
            override(chosen, changes), leg, checkpoint, Display() if on_first_rank() else lambda status: None
        )
    except KeyboardInterrupt:
        if not on_first_rank():
            raise typer.Exit(130) from None
        if latest(out) is None:
            raise KeyboardInterrupt("stopped before the first step: nothing to save") from None
        raise KeyboardInterrupt(f"stopped; the run is saved in {out}: go on with --resume") from None
    if on_first_rank():
        print(f"checkpoint: {last}")


class Display:
    """Prints a line every `every` seconds; on a terminal the last line is overwritten in between."""

    def __init__(self, every: float = 30.0) -> None:
        self.every = every
        self.last = 0.0

    def __call__(self, status: Status) -> None:
        """Show the status."""
        if status.note:
            print(f"{status.note} …", flush=True)
            return
        if status.validation:
            for row in status.validation:
                scores = "  ".join(f"{name} {value:.3f}" for name, value in row.items() if name != "stages")
                print(f"step {status.step}  {int(row['stages']):2d} stages: {scores}", flush=True)
            return
        line = _line(status)
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif time.monotonic() - self.last > self.every:
            self.last = time.monotonic()
            print(line, flush=True)


def _line(status: Status) -> str:
    measures = status.measures
    losses = "  ".join(f"{k[5:]} {v:.3f}" for k, v in measures.items() if k.startswith("loss/"))
    left = [f"{100 * v:.0f}" for k, v in measures.items() if k.startswith("distortion/")]
    hours = (status.steps - status.step) * status.seconds_per_step / 3600
    return (
        f"step {status.step}/{status.steps}  {status.seconds_per_step:.3f} s/step  {hours:.1f} h left  {losses}"
        f"  % left after each stage: {' '.join(left)}"
    )
