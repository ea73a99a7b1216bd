"""The commands `live` and `devices`: a microphone and a loudspeaker."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import BundleError, EdgecodecError
from .options import (
    Anyway,
    AsJson,
    Bitrate,
    Bundle,
    DeviceName,
    DeviceRate,
    Duration,
    Force,
    MicrophoneName,
    SpeakerName,
    Stages,
    Threads,
    Variable,
    load_codec,
    say,
)

if TYPE_CHECKING:
    from ..codec import Codec
    from ..live.endpoints import Sink, Source
    from ..live.pump import LivePump


def devices(as_json: AsJson = False) -> None:
    """List microphones and loudspeakers.

    Example: edgecodec devices
    """
    from ..live.devices import list_devices
    from ..live.stderr import quiet_libraries

    with quiet_libraries():
        found = list_devices()
    lines = []
    for kind in ("input", "output"):
        lines.append(f"{kind}s")
        for device in found:
            if device.channels(kind):
                mark = "*" if device.is_default(kind) else " "
                facts = f"{device.channels(kind):>3} ch {device.sample_rate:>6} Hz  {device.host_api}"
                lines.append(f" {mark}{device.index:>3}  {device.name:<44} {facts}")
    lines.append("* default")
    say("\n".join(lines), [asdict(device) for device in found], as_json)


def live(
    bitrate: Bitrate = None,
    variable: Variable = False,
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
    anyway: Anyway = False,
    force: Force = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
    threads: Threads = 1,
) -> None:
    """Hear yourself through the codec: microphone, encoder, decoder, loudspeaker.

    Keys while it runs: up and down change the stages, b bypasses the codec, m mutes, r records, q quits.

    Example: edgecodec live -b 6
    """
    from ..live.pump import LivePump
    from ..live.recording import Recorder
    from ..live.stderr import quiet_libraries
    from .live_text import live_view, say_end

    codec = load_codec(bundle, device, threads)
    n = codec.stages(bitrate=bitrate, stages=stages)
    if source is None or target is None:
        check_fitness(codec, n, variable=variable, anyway=anyway)
    with quiet_libraries(), contextlib.ExitStack() as stack:
        heard = open_source(codec, source, microphone, device_rate, stack)
        played = open_sink(codec, target, speaker, device_rate, stack, force=force)
        pump = LivePump(codec, heard, played, stages=n, variable=variable, seconds=duration)
        stack.callback(_end_recording, pump)
        if record is not None:
            pump.recorder = Recorder(record, codec.sample_rate, force=force)
        if heard.is_device and played.is_device:
            pump.notice = _feedback_warning(speaker)
        _run(pump)
    snapshot = pump.snapshot()
    say_end(live_view(snapshot), asdict(snapshot), as_json, beside=target)


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


def check_fitness(
    codec: Codec, stages: int, *, anyway: bool, variable: bool = False, encoding: bool = True, decoding: bool = True
) -> None:
    """Refuse a bundle that is too late or too slow for live sound, or say so and go on.

    Raises:
        BundleError: it is, and `anyway` was not given.
    """
    from ..live.fitness import measure_fitness
    from ..live.priority import realtime_priority

    with realtime_priority():  # as live sound has; else other programs make a codec look slow
        fitness = measure_fitness(codec, stages, variable=variable, encoding=encoding, decoding=decoding)
    complaint = fitness.complaint()
    if complaint is None:
        return
    if not anyway:
        raise BundleError(f"{complaint}; --anyway goes on with it")
    typer.echo(f"edgecodec: {complaint}", err=True)


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


def _feedback_warning(speaker: str | None) -> str | None:
    """A warning, unless the output is called headphones or something like it."""
    from ..live.devices import find_device

    device = find_device(speaker, "output")
    if device.maybe_headphones:
        return None
    return f"if {device.name!r} is a loudspeaker that the microphone hears, it will howl: use headphones (m mutes)"
