"""`edgecodec export` and `train-entropy`. Heavy imports stay inside the commands: listing them costs nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from edgecodec.commands.progress import progress_display

if TYPE_CHECKING:
    from edgecodec import Codec


class Start(str, Enum):
    """What EnCodec sees before the first sample."""

    exact = "exact"
    zero = "zero"


class GraphFormat(str, Enum):
    """What graphs are written as."""

    onnx = "onnx"
    ort = "ort"


class Numbers(str, Enum):
    """How weights are stored, and what frame blocks compute with."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Checkpoint or training run; a model of transformers or its makers; hf:owner/name; or a bundle, with "
            "--fixed-frames or --format.",
        ),
    ],
    bundle: Annotated[Path, typer.Argument(help="Folder to write.")],
    name: Annotated[str, typer.Option(help="Name of the bundle; by default, that of the folder.")] = "",
    precision: Annotated[
        Numbers,
        typer.Option(help="fp16 halves the files; int8 also computes the largest layers in 8 bits."),
    ] = Numbers.fp32,
    calibration: Annotated[
        Path | None, typer.Option(help="For int8: folder of audio that it finds its ranges on.")
    ] = None,
    start: Annotated[
        Start | None,
        typer.Option(help="For EnCodec: exact mirrors a clip's ends as the original; zero (default) takes silence."),
    ] = None,
    valid: Annotated[Path | None, typer.Option(help="Folder of clips that the finished bundle is scored on.")] = None,
    notes: Annotated[
        Path | None, typer.Option(help="TOML or JSON with texts for the model card: summary, data, limits, …")
    ] = None,
    clip: Annotated[Path | None, typer.Option(help="Audio file for golden vectors and verification.")] = None,
    license: Annotated[Path | None, typer.Option(help="LICENSE of the model; by default, edgecodec's own.")] = None,
    fixed_frames: Annotated[
        int | None,
        typer.Option(min=1, max=64, metavar="N", help="Of a bundle: take one stream and N frames in every call."),
    ] = None,
    format: Annotated[
        GraphFormat, typer.Option(help="Of a bundle: ort is onnxruntime's own, for builds of phones; files grow.")
    ] = GraphFormat.onnx,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace a bundle that exists.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Report as JSON: folder, bytes, and the whole manifest.")
    ] = False,
) -> None:
    """Export a checkpoint to a bundle, and verify it; your own, or a published EnCodec, DAC, Mimi or SNAC.

    A bundle becomes one for phones: of fixed shapes, or in onnxruntime's own format. Its codes stay the same.

    Example: edgecodec export runs/speech bundles/speech --precision int8 --calibration audio/train
    """
    if fixed_frames or format is GraphFormat.ort or _is_bundle(checkpoint):
        others = (calibration, start, valid, notes, clip, license)
        if any(option is not None for option in others) or precision is not Numbers.fp32:
            raise typer.BadParameter("a bundle keeps its weights and texts: give no other option", param_hint="SOURCE")
        _repack(checkpoint, bundle, name, fixed_frames or 0, format is GraphFormat.ort, force=force, as_json=as_json)
        return
    if (calibration is not None) != (precision is Numbers.int8):
        raise typer.BadParameter("goes with --precision int8, which needs it", param_hint="--calibration")
    import torch
    from edgecodec.errors import ExportError
    from edgecodec.evaluation.measures import scoring_lacks
    from edgecodec.evaluation.quality import KINDS, measure, usual_stages

    from .assemble import Request, export_bundle
    from .model_card import Notes

    torch.set_num_threads(1)
    if valid and (package := scoring_lacks()):
        raise ExportError(f"--valid needs {package}: pip install 'edgecodec[eval]'")

    def score(codec: Codec) -> list[dict[str, object]]:
        assert valid is not None
        stages = usual_stages(codec)
        rates = [codec.bitrates[n - 1] for n in stages]
        rows = measure(codec, valid, stages, variable=rates, kinds=KINDS, progress=progress).rows
        return [row.means() for row in rows]

    with progress_display() as progress:
        manifest = export_bundle(
            Request(
                checkpoint=checkpoint,
                target=bundle,
                name=name or bundle.absolute().name,
                precision=precision.value,
                notes=Notes.read(notes) if notes else Notes(),
                clip=clip,
                calibration=calibration,
                start=start.value if start else None,
                license=license,
                score=score if valid else None,
                force=force,
                progress=progress,
            )
        )
    size = sum(file.stat().st_size for file in bundle.iterdir())
    if as_json:
        print(json.dumps({"bundle": str(bundle), "bytes": size, "manifest": json.loads(manifest.to_json())}, indent=1))
        return
    p = manifest.parity
    print(
        f"verified: latents within {p['latents_error']:.1e} of torch, audio within {p['audio_error']:.1e}, "
        f"{p['codes_equal']:.2%} of codes equal; streamed codes are the whole clip's"
    )
    print(f"bundle: {bundle} ({size / 1e6:.1f} MB, {manifest.quantizer.max_stages} stages)")


def _is_bundle(source: str) -> bool:
    from edgecodec.bundle import shipped_bundles

    return (Path(source) / "manifest.json").is_file() or source in shipped_bundles()


def _repack(source: str, bundle: Path, name: str, frames: int, ort: bool, *, force: bool, as_json: bool) -> None:
    """A bundle from a bundle, and what it costs."""
    from edgecodec.errors import ExportError

    from .repack import Repack, repack

    if not _is_bundle(source):
        raise ExportError(f"{source}: is no bundle, which --fixed-frames and --format need: export it to one first")
    if not frames and not ort:
        raise ExportError(f"{source}: is a bundle: give --fixed-frames or --format ort, or name a checkpoint")
    made = repack(Repack(source, bundle, name or bundle.absolute().name, frames, ort, force=force))
    before, after = made.before, made.after
    equal = min(result.equal_codes for result in made.golden)
    if as_json:
        costs = {"before": asdict(before), "after": asdict(after), "golden": [asdict(r) for r in made.golden]}
        print(json.dumps({"bundle": str(bundle), **costs, "manifest": json.loads(made.manifest.to_json())}, indent=1))
        return
    print(
        f"verified: {equal:.2%} of the golden codes are equal; it goes by the fingerprint {made.manifest.fingerprint}"
    )
    print(
        f"bundle: {bundle}, graphs {after.graph_bytes / 1e6:.1f} MB (before: {before.graph_bytes / 1e6:.1f}), "
        f"{after.frame_ms:.2f} ms a frame on one thread of this CPU (before: {before.frame_ms:.2f})"
    )


def train_entropy(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="Bundle, or a checkpoint, whose exports then have it."),
    ],
    data: Annotated[
        list[Path], typer.Option(help="Folder or file of audio, or WebDataset shards, as for training; repeatable.")
    ],
    steps: Annotated[int, typer.Option(min=1, help="Of training; 6,000 take 15 minutes on one core.")] = 6000,
    width: Annotated[int, typer.Option(min=1, max=256, help="Numbers of the vector that stands for a code.")] = 32,
    hidden: Annotated[int, typer.Option(min=1, max=512, help="Hidden units of each stage.")] = 96,
    query: Annotated[int, typer.Option(min=1, max=128, help="Numbers that an entry of a group is found by.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Teach the entropy model of a codec: which codes follow which. Files of its codes then take a quarter less.

    Example: edgecodec train-entropy bundles/speech --data audio/train
    """
    import torch

    from .entropy_bundle import teach
    from .entropy_network import EntropyConfig

    torch.set_num_threads(1)
    config = EntropyConfig(width=width, hidden=hidden, query=query, steps=steps)
    with progress_display() as progress:
        lesson = teach(source, data, config, seed=seed, progress=progress)
    size = len(lesson.npz())
    if as_json:
        print(json.dumps({"bytes": size} | lesson.facts(), indent=1))
        return
    shares = ", ".join(f"{share:.1%} at {stages}" for stages, share in lesson.saved.items())
    print(f"saves, of clips that it has not seen, by stages: {shares}")
    print(f"entropy model: {size / 1e6:.2f} MB, in {source}")
