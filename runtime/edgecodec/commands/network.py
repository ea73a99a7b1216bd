"""The commands `send` and `receive`: two machines."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .live import check_fitness, open_sink, open_source
from .options import (
    Anyway,
    AsJson,
    Bitrate,
    Bundle,
    DeviceName,
    DeviceRate,
    Duration,
    Force,
    KeyFile,
    MicrophoneName,
    SpeakerName,
    Stages,
    Threads,
    Variable,
    load_codec,
)

if TYPE_CHECKING:
    from ..network.secure import Seal


def send(
    address: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="Where edgecodec receive listens.")],
    source: Annotated[
        str, typer.Option("--input", metavar="mic|FILE", help="Microphone, or audio file in real time; - for stdin.")
    ] = "mic",
    bitrate: Bitrate = None,
    variable: Variable = False,
    key: KeyFile = None,
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
    anyway: Anyway = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
    threads: Threads = 1,
) -> None:
    """Send sound to another machine over UDP.

    Keys while it runs: up and down change the stages, m mutes, q quits.

    Example: edgecodec send localhost:5004 -b 6 --redundancy 2
    """
    from ..live.stderr import quiet_libraries
    from ..network.secure import find_key
    from ..network.sender import Sender
    from ..network.sockets import parse_address, sending_socket
    from .live_text import say_end, send_view
    from .runner import run

    host, port = parse_address(address)
    seal = _seal(find_key(key))
    codec = load_codec(bundle, device, threads)
    n = codec.stages(bitrate=bitrate, stages=stages)
    check_fitness(codec, n, variable=variable, anyway=anyway, decoding=False)
    with quiet_libraries(), contextlib.ExitStack() as stack:
        sock = stack.enter_context(sending_socket(host, port))
        heard = open_source(codec, None if source == "mic" else source, microphone, device_rate, stack)
        sender = Sender(
            codec,
            heard,
            sock,
            address,
            stages=n,
            frames_per_packet=frames,
            redundancy=redundancy,
            variable=variable,
            seal=seal,
            seconds=duration,
        )

        def press(key: str) -> None:
            if key in ("up", "down"):
                sender.stages += 1 if key == "up" else -1
            elif key == "m":
                sender.muted = not sender.muted

        run(sender, lambda: send_view(sender.snapshot()), press)
    snapshot = sender.snapshot()
    say_end(send_view(snapshot), asdict(snapshot), as_json)


def receive(
    port: Annotated[int, typer.Argument(metavar="PORT", min=1, max=65535, help="UDP port.")] = 5004,
    target: Annotated[
        str, typer.Option("--output", metavar="speaker|FILE", help="Loudspeaker, or audio file; - for stdout.")
    ] = "speaker",
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="Listen on this address alone. Default: all.")
    ] = None,
    key: KeyFile = None,
    stay: Annotated[bool, typer.Option("--stay", help="Where a stream ends, wait for another.")] = False,
    speaker: SpeakerName = None,
    duration: Duration = None,
    device_rate: DeviceRate = None,
    bundle: Bundle = "speech",
    anyway: Anyway = False,
    force: Force = False,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
    threads: Threads = 1,
) -> None:
    """Play what another machine sends, until it ends; with --stay also the next one, until q or Ctrl-C.

    Example: edgecodec receive 5004
    """
    from ..errors import NetworkError
    from ..live.endpoints import FileSink
    from ..live.stderr import quiet_libraries
    from ..network.receiver import Receiver
    from ..network.secure import find_key
    from ..network.sockets import receiving_socket
    from .live_text import receive_view, say_end
    from .runner import run

    seal = _seal(find_key(key))
    codec = load_codec(bundle, device, threads)
    check_fitness(codec, codec.max_stages, anyway=anyway, encoding=False)
    with quiet_libraries(), contextlib.ExitStack() as stack:
        sock = stack.enter_context(receiving_socket(host, port, timeout=0.1))
        played = open_sink(codec, None if target == "speaker" else target, speaker, device_rate, stack, force=force)
        receiver = Receiver(codec, sock, played, seal=seal, seconds=duration, stay=stay)
        run(receiver, lambda: receive_view(receiver.snapshot()), lambda _: None)
        if not receiver.snapshot().streams:
            error = NetworkError(f"nothing was heard on port {port}")
            if isinstance(played, FileSink):
                played.discard(error)
            raise error
    snapshot = receiver.snapshot()
    say_end(receive_view(snapshot), asdict(snapshot), as_json, beside=target)


def _seal(key: bytes | None) -> Seal | None:
    """What a key makes; without one it is said, once, that the stream is open."""
    from ..network.secure import Seal

    if key is not None:
        return Seal(key)
    typer.echo("edgecodec: the stream is open: whoever is on its way can hear and forge it (--key)", err=True)
    return None
