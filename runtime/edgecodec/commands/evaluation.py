"""The commands `evaluate` and `simulate-loss`: what it sounds like, in numbers and to listen to."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    AsJson,
    Bitrate,
    Bundle,
    BundleName,
    DeviceName,
    Effort,
    EffortName,
    Force,
    Source,
    Stages,
    Target,
    Threads,
    load_codec,
    say,
)
from .progress import progress_display

if TYPE_CHECKING:
    from ..evaluation.compared_codecs import ComparedCodec
    from ..evaluation.loss_simulation import LossReport, Scores
    from ..evaluation.noisy_input import Hear


class Kind(str, Enum):
    """Which clips of a folder are scored."""

    speech = "speech"
    music = "music"
    noise = "noise"
    all = "all"
    conditions = "conditions"


def evaluate(
    bundle: BundleName,
    data: Annotated[Path, typer.Option(help="Folder of clips; its manifest.csv may say the kind of each file.")],
    bitrate: Annotated[
        list[float] | None, typer.Option("-b", "--bitrate", metavar="KBPS", help="May be repeated.")
    ] = None,
    stages: Annotated[
        list[int] | None, typer.Option("-q", "--stages", help="Stage count instead of a bitrate; may be repeated.")
    ] = None,
    variable: Annotated[
        bool, typer.Option("--variable/--fixed", help="Also files of these bitrates, whose stage counts vary.")
    ] = True,
    effort: Effort = EffortName.best,
    kind: Annotated[
        Kind,
        typer.Option(help="Kind of clips; conditions: speech, and made of it quiet, loud, by telephone, two at once."),
    ] = Kind.speech,
    limit: Annotated[int, typer.Option(min=0, help="At most so many clips of a kind (0: all).")] = 0,
    noise: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Put noise of this folder behind clips: how it denoises.")
    ] = None,
    snr: Annotated[
        float, typer.Option(min=-60, max=60, metavar="DB", help="How far the noise lies below a clip.")
    ] = 5.0,
    noisy: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Noisy recordings of the clips, by the same names, to hear instead."),
    ] = None,
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
    device: DeviceName = "cpu",
    threads: Threads = 1,
) -> None:
    """Score a bundle on audio, with 95 % intervals: 1.5, 3, 6 and 12 kbps if none is named.

    Each at a fixed stage count, and as a file, all bytes counted. With the best search unless --effort says otherwise.

    With --noise or --noisy, scores are those against the clean clips, and the noisy input has a row.

    PESQ-WB, ESTOI, SI-SDR, mel and multi-resolution STFT distance, how alike frames are (locking); DNSMOS and ViSQOL
    where installed; speed.

    Example: edgecodec evaluate speech --data tests/audio -b 3 -b 6 --report report.html
    """
    if as_csv and (as_json or codebooks):
        raise typer.BadParameter("goes neither with --json nor with --codebooks", param_hint="--csv")
    if noise and noisy:
        raise typer.BadParameter("goes not with --noisy", param_hint="--noise")
    from ..evaluation.compared_codecs import classical_codecs
    from ..evaluation.conditions import CONDITIONS
    from ..evaluation.frame_locking import locking_measure
    from ..evaluation.measures import scoring_lacks
    from ..evaluation.mos import mos_measures
    from ..evaluation.noisy_input import NoiseBehind, NoisyRecordings, as_it_is
    from ..evaluation.quality import KINDS, measure, usual_stages
    from ..evaluation.score_tables import codebook_cells, markdown, score_cells, score_csv
    from ..files.output import open_output

    if missing := scoring_lacks(*(["matplotlib"] if report else [])):  # not after minutes
        raise ModuleNotFoundError(name=missing)
    codec = load_codec(bundle, device, threads)
    counts = {codec.stages(stages=n) for n in stages or ()} | {codec.stages(bitrate=kbps) for kbps in bitrate or ()}
    wanted = sorted(counts) or usual_stages(codec)
    beside: list[ComparedCodec] = []
    notes: list[str] = []
    if classical or (classical is None and report):
        beside, notes = classical_codecs(codec.bitrates[wanted[-1] - 1])
    if codec.manifest.max_paths:
        notes.append(f"{codec.manifest.name}: clips are encoded with effort {effort.value}")
    hear: Hear = as_it_is
    if noise:
        hear = NoiseBehind.of(noise, snr, codec.sample_rate)
        notes.append(f"noise of {noise.name or noise} lies {snr:g} dB below the clips, by mean power")
    elif noisy:
        hear = NoisyRecordings(noisy, codec.sample_rate)
        notes.append(f"noisy recordings of {noisy.name or noisy} are heard, and scored against the clips")
    for note in notes:
        typer.echo(f"edgecodec: {note}", err=True)
    kinds = {Kind.all: KINDS, Kind.conditions: ("speech", *CONDITIONS)}.get(kind, (kind.value,))
    with ExitStack() as stack:
        page = stack.enter_context(open_output(str(report), force=force)) if report else None
        progress = stack.enter_context(progress_display())
        evaluation = measure(
            codec,
            data,
            wanted,
            effort=effort.value,
            variable=[codec.bitrates[n - 1] for n in wanted] if variable else [],
            beside=beside,
            kinds=kinds,
            limit=limit,
            hear=hear,
            more_measures=lambda kind: mos_measures(kind) | locking_measure(codec.frame_size),
            examples=report_clips if report else 0,
            progress=progress,
        )
        if page:
            from ..evaluation.report import Report

            page.file.write(Report(codec, evaluation, notes).html().encode())
    if as_csv:
        typer.echo(score_csv(evaluation.rows), nl=False)
        return
    lines = markdown(score_cells(evaluation.rows))
    if codebooks:
        lines += ["", *markdown(codebook_cells(evaluation.codebooks))]
    found = {
        "bundle": codec.manifest.name,
        "effort": effort.value,
        "seconds": round(evaluation.seconds, 3),
        "frames": evaluation.frames,
        "rows": [asdict(row) for row in evaluation.rows],
        "codebooks": [asdict(use) for use in evaluation.codebooks],
        "notes": notes,
    }
    say("\n".join(lines), found, as_json)


def simulate_loss(
    source: Source,
    target: Target,
    loss: Annotated[float, typer.Option(min=0, max=99, metavar="PERCENT", help="Packets lost in the mean.")] = 10.0,
    burst: Annotated[
        float | None, typer.Option(min=1, help="Packets lost in a row in the mean; default: independent losses.")
    ] = None,
    redundancy: Annotated[
        int, typer.Option(min=0, help="Stages of its predecessor that each packet repeats; 0 for none.")
    ] = 0,
    frames: Annotated[int, typer.Option("--frames-per-packet", help="Code frames in a packet.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds lose other packets.")] = 0,
    bitrate: Bitrate = None,
    stages: Stages = None,
    bundle: Bundle = "speech",
    force: Force = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
    threads: Threads = 1,
) -> None:
    """Send audio through a network that loses packets: hear and score the result.

    Example: edgecodec simulate-loss speech.wav lossy.wav -b 6 --burst 3
    """
    from ..evaluation.loss_simulation import simulate_file
    from ..evaluation.measures import scoring_lacks
    from ..evaluation.packet_loss import GilbertModel

    codec = load_codec(bundle, device, threads)
    share = loss / 100
    with progress_display() as progress:
        done = simulate_file(
            codec,
            source,
            target,
            GilbertModel(share, 1 / (1 - share) if burst is None else burst),
            stages=codec.stages(bitrate=bitrate, stages=stages),
            redundancy=redundancy,
            frames_per_packet=frames,
            seed=seed,
            force=force,
            progress=progress,
        )
    say(_loss_lines(done), asdict(done), as_json, beside=target)
    if missing := scoring_lacks():
        typer.echo(f"edgecodec: scores need {missing}: pip install 'edgecodec[eval]'", err=True)


def _loss_lines(r: LossReport) -> str:
    lines = [
        f"{r.seconds:.2f} s in {r.packets} packets, {r.stages} stages, {r.redundancy} repeated: "
        f"{r.payload_kbps:.2f} kbps payload, {r.packet_kbps:.2f} kbps with packet heads",
        f"lost {r.lost} ({r.lost / r.packets:.1%}, {r.longest_burst} in a row at most): "
        f"{r.concealed} concealed, {r.recovered} recovered",
    ]
    if r.lossless is not None and r.lossy is not None:
        lines += [_score_line("without loss", r.lossless), _score_line("with loss", r.lossy)]
    return "\n".join(lines)


def _score_line(what: str, scores: Scores) -> str:
    pesq, estoi = ("no speech" if x is None else f"{x:.2f}" for x in (scores.pesq_wb, scores.estoi))
    return f"{what:<14}PESQ-WB {pesq}, ESTOI {estoi}"
