"""Options that several commands share, and what is done with them everywhere alike."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..codec import Codec


class EffortName(str, Enum):
    """How far the search for codes goes; see `Codec.encode`."""

    live = "live"
    fast = "fast"
    best = "best"


Source = Annotated[
    str, typer.Argument(metavar="IN", help="Audio file in any format of libsndfile; - for WAV on stdin.")
]
Sources = Annotated[
    str, typer.Argument(metavar="IN", help="Audio file in any format of libsndfile, - for WAV on stdin; or a folder.")
]
Target = Annotated[str, typer.Argument(metavar="OUT", help="Audio file (.wav, .flac, .ogg, …); - for WAV on stdout.")]
Bundle = Annotated[str, typer.Option("--bundle", metavar="NAME|PATH", help="Shipped bundle or bundle folder.")]
BundleName = Annotated[str, typer.Argument(metavar="BUNDLE", help="Shipped bundle or bundle folder.")]
Bitrate = Annotated[float | None, typer.Option("-b", "--bitrate", metavar="KBPS", help="Bitrate per channel.")]
MeanBitrate = Annotated[
    float | None, typer.Option("-b", "--bitrate", metavar="KBPS", help="Bitrate per channel, all counted: the mean.")
]
Constant = Annotated[
    bool, typer.Option("--cbr/--vbr", help="As many stages in every frame, or (default) as its sound needs.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="Key of both ends, against listeners and forgers; or EDGECODEC_KEY."),
]
Variable = Annotated[
    bool,
    typer.Option(
        "--vbr/--cbr", help="In each frame the stages its sound needs, or (default) in all the same; one mean bitrate."
    ),
]
Quality = Annotated[
    float | None, typer.Option("--quality", metavar="0..10", help="Quality, whatever the bitrate, instead of one.")
]
Stages = Annotated[int | None, typer.Option("-q", "--stages", help="Stage count, instead of a bitrate.")]
Effort = Annotated[EffortName, typer.Option("--effort", help="Search for better codes: slower, of the same size.")]
Gain = Annotated[
    int | None,
    typer.Option(
        "--gain", min=0, max=60, metavar="DB", help="Louder in between by so much. Default: what a quiet file wants."
    ),
]
Mono = Annotated[bool, typer.Option("--mono", help="Mix all channels into one.")]
Force = Annotated[bool, typer.Option("-f", "--force", help="Replace an output that exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]
DeviceName = Annotated[
    str,
    typer.Option(
        "--device", metavar="NAME", help="Where the graphs run: cpu, auto, cuda, openvino, coreml, directml, …"
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads.")]
MicrophoneName = Annotated[
    str | None, typer.Option("--microphone", metavar="NAME|INDEX", help="Input device; see edgecodec devices.")
]
SpeakerName = Annotated[
    str | None, typer.Option("--speaker", metavar="NAME|INDEX", help="Output device; see edgecodec devices.")
]
DeviceRate = Annotated[
    int | None,
    typer.Option(
        "--device-rate", metavar="HZ", help="Run devices at this rate. Default: the codec's, else the device's own."
    ),
]
Anyway = Annotated[
    bool, typer.Option("--anyway", help="Go on with a bundle whose latency or speed is not fit for live sound.")
]
Duration = Annotated[
    float | None, typer.Option("--duration", min=0.0, metavar="SECONDS", help="End after so much sound.")
]


Recursive = Annotated[bool, typer.Option("--recursive", help="IN is a folder: also the folders below it.")]
Listed = Annotated[
    str | None, typer.Option("--list", metavar="FILE", help="A list of files, one a line, in place of IN; - for stdin.")
]
Include = Annotated[
    list[str] | None, typer.Option("--include", metavar="PATTERN", help="Of a folder, only these; may be repeated.")
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="PATTERN", help="Of a folder, not these; may be repeated.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes for many files. Default: one for each core.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Many files on a Ray cluster: auto, local or HOST:PORT. All its machines must see IN and OUT.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done with many files.")]


def device_name(name: str) -> Any:
    """The value of `--device`, checked."""
    from ..providers import PROVIDERS

    if name not in (*PROVIDERS, "auto"):
        raise typer.BadParameter(f"choose {', '.join(PROVIDERS)} or auto", param_hint="--device")
    return name


def load_codec(bundle: str, device: str, threads: int, *, proven: bool = True) -> Codec:
    """The codec that `--bundle`, `--device` and `--threads` ask for; says what `auto` chose.

    `proven`: refuse a device that does not give the bundle's codes.
    """
    from ..codec import load, load_unproven

    codec = (load if proven else load_unproven)(bundle, device=device_name(device), threads=threads)
    if device == "auto":
        typer.echo(f"edgecodec: running on {codec.device}", err=True)
    return codec


def say(text: str, data: Any, as_json: bool, *, beside: str | None = None) -> None:
    """Tell what a command found, as text or with `--json`: on stderr where stdout carries the output `beside`."""
    from ..files.output import is_standard_output

    typer.echo(json.dumps(data, indent=1) if as_json else text, err=beside is not None and is_standard_output(beside))
