"""`edgecodec export` and `edgecodec evaluate`. Heavy imports stay inside the commands: listing them costs nothing."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from edgecodec.progress import Progress

if TYPE_CHECKING:
    from edgecodec import Codec
    from edgecodec.evaluation.compared_codecs import ComparedCodec


class Numbers(str, Enum):
    """How weights are stored, and what frame blocks compute with."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Kind(str, Enum):
    """Which clips of a folder are scored."""

    speech = "speech"
    music = "music"
    noise = "noise"
    all = "all"


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, or the folder of a training run.")],
    bundle: Annotated[Path, typer.Argument(help="Folder to write.")],
    name: Annotated[str, typer.Option(help="Name of the bundle; by default, that of the folder.")] = "",
    precision: Annotated[
        Numbers, typer.Option(help="fp16 halves the files; int8 also computes frame blocks in 8 bits, and is faster.")
    ] = Numbers.fp32,
    calibration: Annotated[
        Path | None, typer.Option(help="For int8: folder of audio that it finds its ranges on, as for training.")
    ] = None,
    valid: Annotated[Path | None, typer.Option(help="Folder of clips that the finished bundle is scored on.")] = None,
    notes: Annotated[
        Path | None, typer.Option(help="TOML or JSON with texts for the model card: summary, data, limits, …")
    ] = None,
    clip: Annotated[Path | None, typer.Option(help="Audio file for golden vectors and verification.")] = None,
    license: Annotated[Path | None, typer.Option(help="LICENSE of the model; by default, edgecodec's own.")] = None,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace a bundle that exists.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Report as JSON: folder, bytes, and the whole manifest.")
    ] = False,
) -> None:
    """Export a checkpoint to a bundle, and verify it.

    Example: edgecodec export runs/speech bundles/speech --precision int8 --calibration audio/train
    """
    if (calibration is not None) != (precision is Numbers.int8):
        raise typer.BadParameter("goes with --precision int8, which needs it", param_hint="--calibration")
    import torch
    from edgecodec.errors import ExportError
    from edgecodec.evaluation.measures import scoring_lacks
    from edgecodec.evaluation.quality import measure, usual_stages

    from .assemble import Request, export_bundle
    from .model_card import Notes

    torch.set_num_threads(1)
    if valid and (package := scoring_lacks()):
        raise ExportError(f"--valid needs {package}: pip install 'edgecodec[eval]'")

    def score(codec: Codec) -> list[dict[str, object]]:
        assert valid is not None
        rows = measure(codec, valid, usual_stages(codec), progress=progress).rows
        return [row.means() for row in rows]

    with _progress() as progress:
        manifest = export_bundle(
            Request(
                checkpoint=checkpoint,
                target=bundle,
                name=name or bundle.absolute().name,
                precision=precision.value,
                notes=Notes.read(notes) if notes else Notes(),
                clip=clip,
                calibration=calibration,
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


def evaluate(
    bundle: Annotated[str, typer.Argument(help="Shipped bundle or bundle folder.")],
    data: Annotated[Path, typer.Option(help="Folder of clips; its manifest.csv may say the kind of each file.")],
    bitrate: Annotated[
        list[float] | None, typer.Option("-b", "--bitrate", metavar="KBPS", help="May be repeated.")
    ] = None,
    stages: Annotated[
        list[int] | None, typer.Option("-q", "--stages", help="Stage count instead of a bitrate; may be repeated.")
    ] = None,
    kind: Annotated[Kind, typer.Option(help="Kind of clips.")] = Kind.speech,
    limit: Annotated[int, typer.Option(min=0, help="At most so many clips of a kind (0: all).")] = 0,
    classical: Annotated[
        bool | None,
        typer.Option("--classical/--no-classical", help="Score Opus and Speex beside it; by default, in a report."),
    ] = None,
    codebooks: Annotated[bool, typer.Option("--codebooks", help="Also a table of codebook use.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="The scores as CSV.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Also a page with charts, spectrograms and sound.")
    ] = None,
    report_clips: Annotated[int, typer.Option(min=0, help="Clips of each kind to hear in the report.")] = 3,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace a report that exists.")] = False,
) -> None:
    """Score a bundle on audio, with 95 % intervals: 1.5, 3, 6 and 12 kbps if none is named.

    PESQ-WB, ESTOI, SI-SDR, mel and multi-resolution STFT distance; DNSMOS and ViSQOL where installed; speed.

    Example: edgecodec evaluate speech --data tests/audio -b 3 -b 6 --report report.html
    """
    if as_csv and (as_json or codebooks):
        raise typer.BadParameter("goes neither with --json nor with --codebooks", param_hint="--csv")
    _check_scoring("evaluate", *(["matplotlib"] if report else []))

    import edgecodec
    from edgecodec.evaluation.compared_codecs import classical_codecs
    from edgecodec.evaluation.mos import mos_measures
    from edgecodec.evaluation.quality import KINDS, measure, usual_stages
    from edgecodec.evaluation.score_tables import codebook_cells, markdown, score_cells, score_csv
    from edgecodec.files.output import open_output

    codec = edgecodec.load(bundle)
    counts = {codec.stages(stages=n) for n in stages or ()} | {codec.stages(bitrate=kbps) for kbps in bitrate or ()}
    wanted = sorted(counts) or usual_stages(codec)
    beside: list[ComparedCodec] = []
    notes: list[str] = []
    if classical or (classical is None and report):
        beside, notes = classical_codecs(codec.bitrates[wanted[-1] - 1])
    for note in notes:
        typer.echo(f"edgecodec: {note}", err=True)
    with ExitStack() as stack:
        page = stack.enter_context(open_output(str(report), force=force)) if report else None
        progress = stack.enter_context(_progress())
        evaluation = measure(
            codec,
            data,
            wanted,
            beside=beside,
            kinds=KINDS if kind is Kind.all else (kind.value,),
            limit=limit,
            more_measures=mos_measures,
            examples=report_clips if report else 0,
            progress=progress,
        )
        if page:
            from edgecodec.evaluation.report import Report

            page.file.write(Report(codec, evaluation, notes).html().encode())
    if as_csv:
        print(score_csv(evaluation.rows), end="")
    elif as_json:
        facts = {"bundle": codec.manifest.name, "seconds": round(evaluation.seconds, 3), "frames": evaluation.frames}
        rows, uses = ([asdict(item) for item in items] for items in (evaluation.rows, evaluation.codebooks))
        print(json.dumps({**facts, "rows": rows, "codebooks": uses, "notes": notes}, indent=1))
    else:
        print("\n".join(markdown(score_cells(evaluation.rows))))
        if codebooks:
            print("\n" + "\n".join(markdown(codebook_cells(evaluation.codebooks))))


def _check_scoring(what: str, *also: str) -> None:
    """Say now, not after minutes, that scores cannot be had."""
    for package in ("pesq", "pystoi", *also):
        if importlib.util.find_spec(package) is None:
            typer.echo(f"edgecodec: {what} needs {package}: pip install 'edgecodec[eval]'", err=True)
            raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Counts on stderr: one line rewritten on a terminal, else a line every ten seconds."""
    terminal = sys.stderr.isatty()
    said = time.monotonic()

    def show(what: str, done: float, of: float | None) -> None:
        nonlocal said
        text = f"{what} {done:g}" if of is None else f"{what} {done:g} of {of:g}"
        if terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - said > 10:
            said = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
