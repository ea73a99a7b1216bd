"""The commands `live`, `devices`, `send` and `receive`: thin, and without numpy until they run."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import EdgecodecError, StalledError
from .options import AsJson, Bitrate, Bundle, DeviceName, Force, Stages, load_codec

if TYPE_CHECKING:
    from ..codec import Codec
    from ..live.devices import DeviceInfo
    from ..live.endpoints import Sink, Source
    from ..live.pump import LivePump
    from .display import View

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
Duration = Annotated[
    float | None, typer.Option("--duration", min=0.0, metavar="SECONDS", help="End after so much sound.")
]


def devices(as_json: AsJson = False) -> None:
    """List microphones and loudspeakers."""
    from ..live.devices import list_devices
    from ..live.stderr import quiet_libraries

    with quiet_libraries():
        found = list_devices()
    if as_json:
        typer.echo(json.dumps([asdict(device) for device in found], indent=1))
        return
    for kind in ("input", "output"):
        typer.echo(f"{kind}s")
        for device in found:
            if device.channels(kind):
                mark = "*" if device.is_default(kind) else " "
                facts = f"{device.channels(kind):>3} ch {device.sample_rate:>6} Hz  {device.host_api}"
                typer.echo(f" {mark}{device.index:>3}  {device.name:<44} {facts}")
    typer.echo("* default")


def live(
    bitrate: Bitrate = None,
    stages: Stages = None,
    microphone: MicrophoneName = None,
    speaker: SpeakerName = None,
    source: Annotated[
        str | None, typer.Option("--input", metavar="FILE", help="Audio file instead of a microphone; - for stdin.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--output", metavar="FILE", help="Audio file instead of a loudspeaker; - for stdout.")
    ] = None,
    record: Annotated[
        str | None,
        typer.Option("--record", metavar="FILE", help="Record both sides from the start (stereo: heard, played)."),
    ] = None,
    duration: Duration = None,
    device_rate: DeviceRate = None,
    bundle: Bundle = "speech",
    force: Force = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
) -> None:
    """Hear yourself through the codec: microphone, encoder, decoder, loudspeaker.

    Keys while it runs: up and down change the stages, b bypasses the codec, m mutes, r records, q quits.
    """
    from ..live.pump import LivePump
    from ..live.recording import Recorder
    from ..live.stderr import quiet_libraries
    from .live_text import live_view

    codec = load_codec(bundle, device)
    n = codec.stages(bitrate=bitrate, stages=stages)
    with watched(), quiet_libraries(), contextlib.ExitStack() as stack:
        heard = open_source(codec, source, microphone, device_rate, stack)
        played = open_sink(codec, target, speaker, device_rate, stack, force=force)
        pump = LivePump(codec, heard, played, stages=n, seconds=duration)
        stack.callback(_end_recording, pump)
        if record is not None:
            pump.recorder = Recorder(record, codec.sample_rate, force=force)
        if heard.is_device and played.is_device:
            pump.notice = feedback_warning(speaker)
        _run(pump)
    snapshot = pump.snapshot()
    summarize(live_view(snapshot), asdict(snapshot), as_json=as_json, quiet_stdout=target == "-")


def _run(pump: LivePump) -> None:
    from ..live.recording import Recorder, new_path
    from .live_text import live_view
    from .runner import run

    def press(key: str) -> None:
        if key == "up":
            pump.stages += 1
        elif key == "down":
            pump.stages -= 1
        elif key == "b":
            pump.bypass = not pump.bypass
        elif key == "m":
            pump.muted = not pump.muted
        elif key == "r":
            if pump.recorder is None:
                pump.recorder, pump.notice = Recorder(new_path(), pump.sample_rate), None
            else:
                path = pump.recorder.path
                _end_recording(pump)
                pump.notice = f"recorded {path}"

    def careful_press(key: str) -> None:
        try:
            press(key)
        except EdgecodecError as error:  # a full disk ends the recording, not the call
            pump.notice = str(error)

    run(pump, lambda: live_view(pump.snapshot()), careful_press)


def _end_recording(pump: LivePump) -> None:
    recorder, pump.recorder = pump.recorder, None
    if recorder is not None:
        recorder.close()


def send(
    address: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="Where edgecodec receive listens.")],
    source: Annotated[
        str, typer.Option("--input", metavar="mic|FILE", help="Microphone, or audio file in real time; - for stdin.")
    ] = "mic",
    bitrate: Bitrate = None,
    stages: Stages = None,
    redundancy: Annotated[
        int, typer.Option(min=0, help="Stages of the packet before that each packet repeats, against loss.")
    ] = 0,
    frames: Annotated[
        int | None,
        typer.Option(
            "--frames-per-packet", min=1, max=255, help="More: fewer header bytes, more delay. Default: 20 ms or more."
        ),
    ] = None,
    microphone: MicrophoneName = None,
    duration: Duration = None,
    device_rate: DeviceRate = None,
    bundle: Bundle = "speech",
    as_json: AsJson = False,
    device: DeviceName = "cpu",
) -> None:
    """Send sound to another machine over UDP.

    Keys while it runs: up and down change the stages, m mutes, q quits.
    """
    from ..live.stderr import quiet_libraries
    from ..network.sender import Sender
    from ..network.sockets import parse_address, sending_socket
    from .live_text import send_view
    from .runner import run

    host, port = parse_address(address)
    codec = load_codec(bundle, device)
    n = codec.stages(bitrate=bitrate, stages=stages)
    with watched(), quiet_libraries(), contextlib.ExitStack() as stack:
        sock = stack.enter_context(sending_socket(host, port))
        heard = open_source(codec, None if source == "mic" else source, microphone, device_rate, stack)
        sender = Sender(
            codec, heard, sock, address, stages=n, frames_per_packet=frames, redundancy=redundancy, seconds=duration
        )

        def press(key: str) -> None:
            if key in ("up", "down"):
                sender.stages += 1 if key == "up" else -1
            elif key == "m":
                sender.muted = not sender.muted

        run(sender, lambda: send_view(sender.snapshot()), press)
    snapshot = sender.snapshot()
    summarize(send_view(snapshot), asdict(snapshot), as_json=as_json)


def receive(
    port: Annotated[int, typer.Argument(metavar="PORT", min=1, max=65535, help="UDP port.")] = 5004,
    target: Annotated[
        str, typer.Option("--output", metavar="speaker|FILE", help="Loudspeaker, or audio file; - for stdout.")
    ] = "speaker",
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="Listen on this address alone. Default: all.")
    ] = None,
    speaker: SpeakerName = None,
    duration: Duration = None,
    device_rate: DeviceRate = None,
    bundle: Bundle = "speech",
    force: Force = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
) -> None:
    """Play what another machine sends, until it ends."""
    from ..live.stderr import quiet_libraries
    from ..network.receiver import Receiver
    from ..network.sockets import receiving_socket
    from .live_text import receive_view
    from .runner import run

    codec = load_codec(bundle, device)
    with watched(), quiet_libraries(), contextlib.ExitStack() as stack:
        sock = stack.enter_context(receiving_socket(host, port, timeout=0.1))
        played = open_sink(codec, None if target == "speaker" else target, speaker, device_rate, stack, force=force)
        receiver = Receiver(codec, sock, played, seconds=duration)
        run(receiver, lambda: receive_view(receiver.snapshot()), lambda _: None)
    snapshot = receiver.snapshot()
    summarize(receive_view(snapshot), asdict(snapshot), as_json=as_json, quiet_stdout=target == "-")


def open_source(
    codec: Codec, path: str | None, name: str | None, rate: int | None, stack: contextlib.ExitStack
) -> Source:
    """The file of a path, else the microphone of a name; closed by `stack`."""
    from ..live.devices import Microphone, device_block, find_device
    from ..live.endpoints import FileSource
    from ..live.priority import realtime_priority

    source: Source
    if path is not None:
        source = FileSource(path, codec.sample_rate, codec.frame_size)
    else:
        stack.enter_context(realtime_priority())
        block = device_block(codec.sample_rate, codec.frame_size)
        source = Microphone(find_device(name, "input"), codec.sample_rate, block, rate)
    stack.callback(source.close)
    return source


def open_sink(
    codec: Codec, path: str | None, name: str | None, rate: int | None, stack: contextlib.ExitStack, *, force: bool
) -> Sink:
    """The file of a path, else the loudspeaker of a name; closed, and a file completed, by `stack`."""
    from ..live.devices import Loudspeaker, device_block, find_device
    from ..live.endpoints import FileSink
    from ..live.priority import realtime_priority

    sink: Sink
    if path is not None:
        sink = FileSink(path, codec.sample_rate, force=force)
    else:
        stack.enter_context(realtime_priority())
        block = device_block(codec.sample_rate, codec.frame_size)
        sink = Loudspeaker(find_device(name, "output"), codec.sample_rate, block, rate)
    stack.callback(sink.close)
    return sink


def feedback_warning(speaker: str | None) -> str | None:
    """A warning, unless the output is called headphones or something like it."""
    from ..live.devices import find_device

    device: DeviceInfo = find_device(speaker, "output")
    if device.maybe_headphones:
        return None
    return f"if {device.name!r} is a loudspeaker that the microphone hears, it will howl: use headphones (m mutes)"


def summarize(view: View, data: dict[str, Any], *, as_json: bool, quiet_stdout: bool = False) -> None:
    """How it ended, on stdout; as text only where the last display is not still to be seen."""
    if as_json:
        typer.echo(json.dumps(data, indent=1), err=quiet_stdout)
    elif not (sys.stdout.isatty() and sys.stderr.isatty()):
        typer.echo("\n".join(f"{name:<10}{value}" for name, value in view.rows), err=quiet_stdout)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Leave at once, with one line, where a device hangs: nothing can end the thread that waits for it."""
    try:
        yield
    except StalledError as error:
        typer.echo(f"edgecodec: {error}", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(epilog="Example: edgecodec live -b 6")(live)
    app.command(epilog="Example: edgecodec devices")(devices)
    app.command(epilog="Example: edgecodec send studio.example:5004 -b 6 --redundancy 2")(send)
    app.command(epilog="Example: edgecodec receive 5004")(receive)
