"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..codec import Codec

Bundle = Annotated[str, typer.Option("--bundle", metavar="NAME|PATH", help="Shipped bundle or bundle folder.")]
Bitrate = Annotated[float | None, typer.Option("-b", "--bitrate", metavar="KBPS", help="Bitrate per channel.")]
Stages = Annotated[int | None, typer.Option("-q", "--stages", help="Stage count, instead of a bitrate.")]
Mono = Annotated[bool, typer.Option("--mono", help="Mix all channels into one.")]
Force = Annotated[bool, typer.Option("-f", "--force", help="Replace an output that exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]
DeviceName = Annotated[str, typer.Option("--device", metavar="cpu|cuda|auto", help="Where the graphs run.")]


def device_name(name: str) -> Any:
    """The value of `--device`, checked."""
    if name not in ("cpu", "cuda", "auto"):
        raise typer.BadParameter("choose cpu, cuda or auto", param_hint="--device")
    return name


def load_codec(bundle: str, device: str) -> Codec:
    """The codec that `--bundle` and `--device` ask for; says what `auto` chose."""
    from ..codec import load

    codec = load(bundle, device=device_name(device))
    if device == "auto":
        typer.echo(f"edgecodec: running on {codec.device}", err=True)
    return codec
