"""The commands `encode`, `decode`, `roundtrip`, `codes` and `trim`: files and pipes."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from .many import Files, Many
from .options import (
    AsJson,
    Bundle,
    Constant,
    DeviceName,
    DryRun,
    Effort,
    EffortName,
    Exclude,
    Force,
    Gain,
    Include,
    Listed,
    MeanBitrate,
    Mono,
    Quality,
    Ray,
    Recursive,
    Source,
    Sources,
    Stages,
    Target,
    Threads,
    Workers,
    device_name,
    load_codec,
    say,
)
from .progress import progress_display

if TYPE_CHECKING:
    from ..files.transcode import Report

_MOST_LINES = 20  # about damage
_DAMAGED = 3  # exit code: the output is there, and not all of it is what was encoded


class CodesFormat(str, Enum):
    """What codes of many files are written as."""

    edgc = "edgc"
    npz = "npz"
    safetensors = "safetensors"
    webdataset = "webdataset"
    parquet = "parquet"


class ArrayFormat(str, Enum):
    """What codes are taken out as."""

    npz = "npz"
    safetensors = "safetensors"


class AudioFormat(str, Enum):
    """What many files are decoded to."""

    wav = "wav"
    flac = "flac"
    ogg = "ogg"
    mp3 = "mp3"


def encode(
    source: Sources,
    target: Annotated[str | None, typer.Argument(metavar="OUT.edgc", help="- for stdout; or a folder.")] = None,
    bitrate: MeanBitrate = None,
    constant: Constant = False,
    quality: Quality = None,
    stages: Stages = None,
    effort: Effort = EffortName.fast,
    bundle: Bundle = "speech",
    mono: Mono = False,
    gain: Gain = None,
    force: Force = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
    threads: Threads = 1,
    recursive: Recursive = False,
    listed: Listed = None,
    include: Include = None,
    exclude: Exclude = None,
    workers: Workers = None,
    dry_run: DryRun = False,
    ray: Ray = None,
    form: Annotated[
        CodesFormat,
        typer.Option("--format", help="Of many files: .edgc, or arrays with as many stages in every frame."),
    ] = CodesFormat.edgc,
    shard_mb: Annotated[
        int, typer.Option("--shard-mb", min=1, help="Of webdataset and parquet: MB of files that go into one.")
    ] = 1000,
) -> None:
    """Encode audio to an .edgc file; or a folder, or the files of a list, to files of the same names in a folder.

    Many files are encoded by several processes, and a job that was ended goes on where it stopped when it is started
    again. What cannot be read stands in failures.csv with the reason; the exit code is then 3.

    Example: edgecodec encode speech.wav speech.edgc -b 3
    """
    from ..files.encoding import Rate
    from ..files.transcode import encode_file

    files = Files(
        listed, recursive, tuple(include or ()), tuple(exclude or ()), workers, dry_run, ray, threads, device == "cuda"
    )
    many = Many.of(source, target, files, force=force, as_json=as_json)
    codec = load_codec(bundle, device, threads)
    is_array = form != CodesFormat.edgc
    if is_array and gain is not None:
        raise typer.BadParameter(
            "goes with .edgc files: arrays hold the codes of the audio as it is", param_hint="--gain"
        )
    rate = Rate.of(codec, bitrate=bitrate, quality=quality, stages=stages, constant=constant or is_array)
    if many is not None:
        settings = {
            "codec": codec.fingerprint.hex(),
            "model": codec.bundle.model_fingerprint.hex(),
            "rate": asdict(rate),
            "effort": effort.value,
            "mono": mono,
            "gain": gain,
        }
        many.encode(codec, rate, effort.value, mono, gain, form.value, shard_mb * 1_000_000, settings)
        return
    if is_array:
        raise typer.BadParameter("goes with a folder or --list; see edgecodec codes", param_hint="--format")
    assert target is not None
    with progress_display() as progress:
        done = encode_file(
            codec, source, target, rate=rate, effort=effort.value, mono=mono, gain=gain, force=force, progress=progress
        )
    say(_report_line("encoded", done), done.as_data(), as_json, beside=target)


def decode(
    source: Annotated[str, typer.Argument(metavar="IN.edgc", help="- for stdin; or a folder.")],
    target: Annotated[
        str | None,
        typer.Argument(metavar="OUT", help="Audio file (.wav, .flac, .ogg, …); - for WAV on stdout; or a folder."),
    ] = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", metavar="NAME|PATH", help="Default: the shipped one that the file names.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a damaged file instead of concealing what is lost.")
    ] = False,
    start: Annotated[float, typer.Option("--start", min=0.0, metavar="SECONDS", help="Begin here.")] = 0.0,
    duration: Annotated[
        float | None, typer.Option("--duration", min=0.0, metavar="SECONDS", help="Decode no more than this.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
    threads: Threads = 1,
    recursive: Recursive = False,
    listed: Listed = None,
    include: Include = None,
    exclude: Exclude = None,
    workers: Workers = None,
    dry_run: DryRun = False,
    ray: Ray = None,
    form: Annotated[AudioFormat, typer.Option("--format", help="Of many files.")] = AudioFormat.wav,
) -> None:
    """Decode an .edgc file, or a part, to audio of the original rate, channels and length; or all of a folder.

    Of a damaged file, what is lost is concealed and said, and the exit code is 3. Many files: see `encode`.

    Example: edgecodec decode speech.edgc speech-decoded.wav
    """
    from ..files.transcode import decode_file

    files = Files(
        listed, recursive, tuple(include or ()), tuple(exclude or ()), workers, dry_run, ray, threads, device == "cuda"
    )
    many = Many.of(source, target, files, force=force, as_json=as_json)
    codec = None if bundle is None else load_codec(bundle, device, threads)
    chosen = device_name(device)
    if many is not None:
        from ..corpus.files import DecodeFiles, NamedCodecs

        if start or duration is not None or strict:
            raise typer.BadParameter("goes with one file", param_hint="--start, --duration, --strict")
        settings = {"codec": None if codec is None else codec.fingerprint.hex()}
        many.carry_out(
            DecodeFiles(NamedCodecs(codec, chosen, threads)),
            settings,
            "decoded",
            many.one_each(f".{form.value}", (".edgc",)),
        )
        return
    assert target is not None
    with progress_display() as progress:
        done = decode_file(
            source,
            target,
            codec=codec,
            device=chosen,
            threads=threads,
            strict=strict,
            force=force,
            start=start,
            duration=duration,
            progress=progress,
        )
    for damage in done.damage[:_MOST_LINES]:
        typer.echo(f"edgecodec: {source}: {damage}", err=True)
    if len(done.damage) > _MOST_LINES:
        typer.echo(f"edgecodec: {source}: and damage in {len(done.damage) - _MOST_LINES} more places", err=True)
    say(_report_line("decoded", done), done.as_data(), as_json, beside=target)
    if done.damage:
        raise typer.Exit(_DAMAGED)


def roundtrip(
    source: Source,
    target: Target,
    bitrate: MeanBitrate = None,
    constant: Constant = False,
    quality: Quality = None,
    stages: Stages = None,
    effort: Effort = EffortName.fast,
    bundle: Bundle = "speech",
    mono: Mono = False,
    gain: Gain = None,
    force: Force = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
    threads: Threads = 1,
) -> None:
    """Encode and decode in one go, to hear what a bitrate does.

    Example: edgecodec roundtrip speech.wav speech-6kbps.wav -b 6
    """
    from ..files.encoding import Rate
    from ..files.transcode import roundtrip_file

    codec = load_codec(bundle, device, threads)
    rate = Rate.of(codec, bitrate=bitrate, quality=quality, stages=stages, constant=constant)
    with progress_display() as progress:
        encoded, decoded = roundtrip_file(
            codec, source, target, rate=rate, effort=effort.value, mono=mono, gain=gain, force=force, progress=progress
        )
    text = f"{_report_line('encoded', encoded)}\n{_report_line('decoded', decoded)}"
    say(text, {"encode": encoded.as_data(), "decode": decoded.as_data()}, as_json, beside=target)


def codes(
    source: Annotated[
        str, typer.Argument(metavar="IN", help=".edgc, or .npz and .safetensors that hold codes; or a folder of .edgc.")
    ],
    target: Annotated[
        str | None, typer.Argument(metavar="OUT", help=".npz or .safetensors, or .edgc; or a folder.")
    ] = None,
    stages: Stages = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", metavar="NAME|PATH", help="Default: the one that IN names.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    recursive: Recursive = False,
    listed: Listed = None,
    include: Include = None,
    exclude: Exclude = None,
    workers: Workers = None,
    dry_run: DryRun = False,
    ray: Ray = None,
    form: Annotated[ArrayFormat, typer.Option("--format", help="Of many files.")] = ArrayFormat.npz,
) -> None:
    """Take the codes of an .edgc file as an array [channels, stages, frames], or make an .edgc of such an array.

    Of a folder, all .edgc files become arrays. Many files: see `encode`.

    Example: edgecodec codes speech.edgc speech.npz
    """
    from ..bundle import shipped_bundles
    from ..files.code_arrays import codes_of_edgc, read_arrays, write_arrays, write_edgc

    files = Files(listed, recursive, tuple(include or ()), tuple(exclude or ()), workers, dry_run, ray)
    many = Many.of(source, target, files, force=force, as_json=as_json)
    if many is not None:
        from ..corpus.files import NamedCodecs, TakeCodes

        codec = None if bundle is None else load_codec(bundle, "cpu", 1)
        settings = {"codec": None if codec is None else codec.fingerprint.hex(), "stages": stages}
        tasks = many.one_each(f".{form.value}", (".edgc",))
        many.carry_out(TakeCodes(NamedCodecs(codec), stages), settings, "took the codes of", tasks)
        return
    assert target is not None
    if not target.lower().endswith(".edgc"):
        arrays = codes_of_edgc(source, stages, None if bundle is None else load_codec(bundle, "cpu", 1))
        write_arrays(arrays, target, source=source, force=force)
    else:
        arrays = read_arrays(source)
        name = bundle or str(arrays.facts.get("codec", "speech"))
        if bundle is None and name not in shipped_bundles():
            raise typer.BadParameter(f"{source} names {name[:60]!r}, which is not shipped", param_hint="--bundle")
        write_edgc(load_codec(name, "cpu", 1), arrays, target, source=source, force=force)
    rows, lines, frames = arrays.codes.shape
    data = {"channels": rows, "stages": lines, "frames": frames}
    say(f"{target}: codes of {rows} channels, {lines} stages, {frames} frames", data, as_json, beside=target)


def trim(
    source: Annotated[str, typer.Argument(metavar="IN.edgc", help="- for stdin.")],
    target: Annotated[str, typer.Argument(metavar="OUT.edgc", help="- for stdout.")],
    bitrate: Annotated[
        float | None, typer.Option("-b", "--bitrate", metavar="KBPS", help="At most so much per channel, all counted.")
    ] = None,
    stages: Stages = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Cut an .edgc file to a lower bitrate, without decoding and without its bundle.

    Example: edgecodec trim speech.edgc smaller.edgc -b 3
    """
    from ..files.trim import trim_file

    done = trim_file(source, target, stages=stages, bitrate=bitrate, force=force)
    text = (
        f"trimmed {done.seconds:.2f} s ({done.channels} ch, {done.sample_rate} Hz) to at most {done.stages} stages: "
        f"{done.file_kbps:.2f} kbps on disk ({done.file_bytes} of {done.bytes_before} bytes)"
    )
    say(text, asdict(done), as_json, beside=target)


def _report_line(verb: str, r: Report) -> str:
    louder = f", {r.gain} dB louder in between" if r.gain else ""
    return (
        f"{verb} {r.seconds:.2f} s ({r.channels} ch, {r.sample_rate} Hz){louder}, {r.stages} stages: "
        f"{r.payload_kbps:.2f} kbps payload, {r.file_kbps:.2f} kbps on disk ({r.file_bytes} bytes), "
        f"{r.speed:.0f} × real time"
    )
