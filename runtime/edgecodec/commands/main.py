"""The command `edgecodec`: thin commands that parse and delegate.

Heavy imports (numpy, onnxruntime, libsndfile) stay inside the commands, so that `--help` answers at once. `train`,
`export` and `evaluate` come from the entry-point group `edgecodec.commands` and are imported when they are called.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ..errors import EdgecodecError
from . import live as live_cli
from .options import AsJson, Bitrate, Bundle, DeviceName, Force, Mono, Stages, device_name, load_codec

if TYPE_CHECKING:
    from ..evaluation.loss_simulation import LossReport, Scores
    from ..files.transcode import Report

_INTERRUPTED, _FAILED, _BROKEN_PIPE = 130, 1, 141


class _Group(TyperGroup):
    """Runs commands and turns what goes wrong into one line and an exit code; nobody sees a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EdgecodecError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt as error:
            _fail(str(error) or "interrupted", _INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains once more when it exits
            raise typer.Exit(_BROKEN_PIPE) from None  # in silence, as other programs end then
        except OSError as error:
            _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", _FAILED)
        except MemoryError:
            _fail("out of memory", _FAILED)


app = typer.Typer(
    cls=_Group,
    name="edgecodec",
    help="Neural audio codecs on the device: encode, decode and inspect; train and export your own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Source = Annotated[
    str, typer.Argument(metavar="IN", help="Audio file in any format of libsndfile; - for WAV on stdin.")
]
Target = Annotated[str, typer.Argument(metavar="OUT", help="Audio file (.wav, .flac, .ogg, …); - for WAV on stdout.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgecodec {metadata.version('edgecodec')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command(epilog="Example: edgecodec encode speech.wav speech.edgc -b 3")
def encode(
    source: Source,
    target: Annotated[str, typer.Argument(metavar="OUT.edgc", help="- for stdout.")],
    bitrate: Bitrate = None,
    stages: Stages = None,
    bundle: Bundle = "speech",
    mono: Mono = False,
    force: Force = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
) -> None:
    """Encode audio to an .edgc file."""
    from ..files.transcode import encode_file

    codec = load_codec(bundle, device)
    n = codec.stages(bitrate=bitrate, stages=stages)
    report = encode_file(codec, source, target, stages=n, mono=mono, force=force, progress=_progress())
    _say(_report_line("encoded", report), asdict(report), as_json, quiet_stdout=target == "-")


@app.command(epilog="Example: edgecodec decode speech.edgc speech-decoded.wav")
def decode(
    source: Annotated[str, typer.Argument(metavar="IN.edgc", help="- for stdin.")],
    target: Target,
    bundle: Annotated[
        str | None, typer.Option("--bundle", metavar="NAME|PATH", help="Default: the shipped one that the file names.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a damaged file instead of decoding up to it.")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
) -> None:
    """Decode an .edgc file to audio of the original rate, channels and length."""
    from ..files.transcode import decode_file

    codec = None if bundle is None else load_codec(bundle, device)
    report = decode_file(
        source, target, codec=codec, device=device_name(device), strict=strict, force=force, progress=_progress()
    )
    if report.damage is not None:
        typer.echo(f"edgecodec: {source}: {report.damage}; decoded {report.seconds:.2f} s up to there", err=True)
    _say(_report_line("decoded", report), asdict(report), as_json, quiet_stdout=target == "-")


@app.command(epilog="Example: edgecodec roundtrip speech.wav speech-6kbps.wav -b 6")
def roundtrip(
    source: Source,
    target: Target,
    bitrate: Bitrate = None,
    stages: Stages = None,
    bundle: Bundle = "speech",
    mono: Mono = False,
    force: Force = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
) -> None:
    """Encode and decode in one go, to hear what a bitrate does."""
    from ..files.transcode import roundtrip_file

    codec = load_codec(bundle, device)
    n = codec.stages(bitrate=bitrate, stages=stages)
    encoded, decoded = roundtrip_file(codec, source, target, stages=n, mono=mono, force=force, progress=_progress())
    text = f"{_report_line('encoded', encoded)}\n{_report_line('decoded', decoded)}"
    _say(text, {"encode": asdict(encoded), "decode": asdict(decoded)}, as_json, quiet_stdout=target == "-")


@app.command("simulate-loss", epilog="Example: edgecodec simulate-loss speech.wav lossy.wav -b 6 --burst 3")
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
) -> None:
    """Send audio through a network that loses packets: hear and score the result."""
    from ..evaluation.loss_simulation import simulate_file
    from ..evaluation.measures import scoring_lacks
    from ..evaluation.packet_loss import GilbertModel

    codec = load_codec(bundle, device)
    share = loss / 100
    report = simulate_file(
        codec,
        source,
        target,
        GilbertModel(share, 1 / (1 - share) if burst is None else burst),
        stages=codec.stages(bitrate=bitrate, stages=stages),
        redundancy=redundancy,
        frames_per_packet=frames,
        seed=seed,
        force=force,
    )
    _say(_loss_lines(report), asdict(report), as_json, quiet_stdout=target == "-")
    if missing := scoring_lacks():
        typer.echo(f"edgecodec: scores need {missing}: pip install 'edgecodec[eval]'", err=True)


@app.command(epilog="Example: edgecodec info speech")
def info(
    what: Annotated[str, typer.Argument(metavar="FILE|BUNDLE", help="An .edgc file, a shipped bundle or a folder.")],
    as_json: AsJson = False,
) -> None:
    """Tell what an .edgc file or a bundle is."""
    from .info import describe

    facts = describe(what)
    _say("\n".join(f"{name:<22}{value}" for name, value in facts.lines()), facts.data, as_json)


@app.command(epilog="Example: edgecodec verify speech")
def verify(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Shipped bundle or bundle folder.")],
    as_json: AsJson = False,
    device: DeviceName = "cpu",
) -> None:
    """Check a bundle's files, and this machine's results against its golden vectors."""
    from ..golden import verify as verify_golden

    codec = load_codec(bundle, device)
    results = verify_golden(codec)
    lines = [
        f"{r.stages:>3} stages: {r.equal_codes:.2%} of codes equal, decoded within {r.decoded_error:.1e}"
        + ("" if r.equal_codes == 1 else " (another processor rounds differently)" if r.passed else "  FAILED")
        for r in results
    ]
    passed = all(r.passed for r in results)
    data = {"passed": passed, "device": codec.device, "results": [asdict(r) for r in results]}
    _say("\n".join([f"{codec.manifest.name} on {codec.device}: files as the manifest says", *lines]), data, as_json)
    if not passed:
        _fail(f"{bundle}: does not do what was exported", _FAILED)


def _add_plugin(entry: metadata.EntryPoint, summary: str, extra: str) -> None:
    """List a command of another package; it is imported when it runs, and parses its own arguments."""

    def run(ctx: typer.Context) -> None:
        try:
            command = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
            command.command(context_settings={"help_option_names": ["-h", "--help"]})(entry.load())
            parsed = typer.main.get_command(command)
            with parsed.make_context(f"edgecodec {entry.name}", list(ctx.args)) as inner:
                parsed.invoke(inner)
        except ModuleNotFoundError as error:
            missing = error.name or "a package"
            if missing.startswith("edgecodec"):
                _fail(f"{entry.name}: this installation lacks {missing}", _FAILED)
            _fail(f"{entry.name} needs {missing}: pip install 'edgecodec[{extra}]'", _FAILED)

    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(entry.name, help=summary, context_settings=settings)(run)


live_cli.add_to(app)

_PLUGINS = {
    "train": ("Train a codec.", "train"),
    "bench": ("Benchmark a bundle on this machine.", "all"),
    "evaluate": ("Score a codec on audio.", "eval"),
    "export": ("Export a checkpoint to a bundle.", "export"),
}
for _entry in metadata.entry_points(group="edgecodec.commands"):
    _add_plugin(_entry, *_PLUGINS.get(_entry.name, (f"From {_entry.value}.", "all")))


def _progress() -> Callable[[str, float, float | None], None]:
    """Tells how far a command is, each thing that it does by itself."""
    from .progress import Progress

    bars: dict[str, tuple[Progress, float]] = {}

    def tell(what: str, done: float, of: float | None) -> None:
        bar, before = bars[what] if what in bars else (Progress(what, of), 0.0)
        bar.advance(done - before)
        bars[what] = bar, done

    return tell


def _report_line(verb: str, r: Report) -> str:
    return (
        f"{verb} {r.seconds:.2f} s ({r.channels} ch, {r.sample_rate} Hz), {r.stages} stages: {r.payload_kbps:.2f} kbps "
        f"payload, {r.file_kbps:.2f} kbps on disk ({r.file_bytes} bytes), {r.speed:.0f} \u00d7 real time"
    )


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


def _say(text: str, data: dict[str, Any], as_json: bool, *, quiet_stdout: bool = False) -> None:
    """Report on stdout, or on stderr where stdout carries the output."""
    typer.echo(json.dumps(data, indent=1) if as_json else text, err=quiet_stdout)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"edgecodec: {message}", err=True)
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # temporary files go, as with Ctrl-C
    app()
