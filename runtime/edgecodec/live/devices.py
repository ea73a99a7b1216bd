"""Microphones and loudspeakers, through PortAudio (the package sounddevice, imported when it is needed).

Two raw streams and blocking calls from one thread: over PulseAudio, duplex callbacks lost up to half of the audio
without saying so. A stream runs at the codec's rate, or, where the device refuses that, at the device's own.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError
from .resampler import LiveResampler

Kind = Literal["input", "output"]
LATENCY = 0.04  # seconds that each stream is asked to buffer
_AHEAD = 2 / 75  # seconds of silence before the first sound, besides the block that is being filled
_SHORTEST = 0.01  # seconds; shorter frames come several to a block
# Blocks that a microphone is read before the first that counts, and the most that each lasts: the first ones come in
# bursts. Of a codec whose frames last a second, whole blocks would look like a microphone that does not answer.
_WARM_UP, _WARM_UP_SECONDS = 8, 0.02
_CLOSING = 1.0  # seconds that a device may take to close
_GONE = ", it or the sound server is gone"
_HEADPHONES = ("headphone", "headset", "earphone", "earbud", "airpod", "buds", "handset")


@dataclass(frozen=True)
class DeviceInfo:
    """One device as PortAudio lists it; it may be an input, an output, or both."""

    index: int
    name: str
    host_api: str
    input_channels: int
    output_channels: int
    sample_rate: int  # Hz, the device's own
    default_input: bool
    default_output: bool

    def channels(self, kind: Kind) -> int:
        """How many channels it has as an input or an output, 0 for none."""
        return self.input_channels if kind == "input" else self.output_channels

    def is_default(self, kind: Kind) -> bool:
        """Whether it is what a program gets that asks for none by name."""
        return self.default_input if kind == "input" else self.default_output

    @property
    def maybe_headphones(self) -> bool:
        """Whether its name says that no microphone will hear it."""
        return any(word in self.name.lower() for word in _HEADPHONES)


def device_block(sample_rate: int, frame_size: int) -> int:
    """Samples per block: one frame, or as many as last 10 ms."""
    return frame_size * math.ceil(_SHORTEST * sample_rate / frame_size)


def list_devices() -> list[DeviceInfo]:
    """All devices.

    Raises:
        DeviceError: no PortAudio, or no device at all; the message says what to do.
    """
    sd = _sounddevice()
    with _refusals("cannot list the devices"):
        apis = sd.query_hostapis()
        found = [
            DeviceInfo(
                index=index,
                name=" ".join(device["name"].split()),
                host_api=apis[device["hostapi"]]["name"],
                input_channels=device["max_input_channels"],
                output_channels=device["max_output_channels"],
                sample_rate=int(device["default_samplerate"]),
                default_input=index == sd.default.device["input"],
                default_output=index == sd.default.device["output"],
            )
            for index, device in enumerate(sd.query_devices())
        ]
    if not found:
        raise DeviceError("no sound device: plug one in, or start the sound server (PulseAudio, PipeWire)")
    return found


def find_device(wanted: str | None, kind: Kind) -> DeviceInfo:
    """A device by its index, its name or a part of it; the default one for None.

    Raises:
        DeviceError: none, or more than one, that fits; the message lists them.
    """
    devices = [device for device in list_devices() if device.channels(kind)]
    what = "microphone" if kind == "input" else "loudspeaker"
    if not devices:
        raise DeviceError(f"no {what}: plug one in; `edgecodec devices` lists what there is")
    if wanted is None:
        return next((device for device in devices if device.is_default(kind)), devices[0])
    fitting = [device for device in devices if str(device.index) == wanted]
    fitting = fitting or [device for device in devices if device.name.lower() == wanted.lower()]
    fitting = fitting or [device for device in devices if wanted.lower() in device.name.lower()]
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(f"{device.index} {device.name}" for device in fitting or devices)
    problem = "fits several" if fitting else "is none"
    raise DeviceError(f"{wanted!r} {problem} of the {kind}s; choose an index: {listed}")


class Microphone:
    """An input device as a `Source`: mono blocks at the codec's rate.

    Args:
        device: from `find_device`.
        codec_rate: Hz, of the blocks.
        block: samples per block at that rate.
        rate: Hz, of the device; None for the codec's rate where the device takes it, else the device's own.
    """

    is_device = True

    def __init__(self, device: DeviceInfo, codec_rate: int, block: int, rate: int | None = None) -> None:
        self._device = device
        self.name = device.name
        self.rate, self._channels = _settings(device, "input", codec_rate, rate)
        self._block = round(block * self.rate / codec_rate)
        self._resampler = LiveResampler(self.rate, codec_rate)
        self.overruns = 0
        self._busy = threading.Lock()
        with _refusals(f"cannot open the microphone {self.name!r}"):
            self._stream = _sounddevice().RawInputStream(
                self.rate, self._block, device.index, self._channels, "float32", LATENCY
            )

    @property
    def resampling(self) -> float:
        """Seconds that resampling adds."""
        return self._resampler.delay

    def start(self) -> None:
        """Begin to listen; what comes at first is thrown away."""
        with self._busy, _refusals(f"the microphone {self.name!r} failed{_GONE}"):
            self._stream.start()
            for _ in range(_WARM_UP):
                self._stream.read(min(self._block, round(_WARM_UP_SECONDS * self.rate)))

    def read(self) -> NDArray[np.float32]:
        """The next block [samples], as soon as it is there.

        Raises:
            DeviceError: a device that is gone.
        """
        with self._busy, _refusals(f"the microphone {self.name!r} failed{_GONE}"):
            data, overflowed = self._stream.read(self._block)
        self.overruns += bool(overflowed)
        samples = np.frombuffer(data, np.float32).reshape(-1, self._channels)
        mono: NDArray[np.float32] = samples[:, 0] if self._channels == 1 else samples.mean(axis=1, dtype=np.float32)
        return self._resampler.push(np.nan_to_num(mono, posinf=0.0, neginf=0.0))

    def waiting(self) -> float:
        """Seconds of sound that wait to be read."""
        with self._busy, _refusals(f"the microphone {self.name!r} failed{_GONE}"):
            return max(0, int(self._stream.read_available)) / self.rate

    def close(self) -> None:
        """Let go of the device."""
        _close(self._stream, self._busy)


class Loudspeaker:
    """An output device as a `Sink`: takes mono audio at the codec's rate. Arguments as those of `Microphone`."""

    is_device = True

    def __init__(self, device: DeviceInfo, codec_rate: int, block: int, rate: int | None = None) -> None:
        self._device = device
        self.name = device.name
        self.rate, self._channels = _settings(device, "output", codec_rate, rate)
        self._block = round(block * self.rate / codec_rate)
        self._resampler = LiveResampler(codec_rate, self.rate)
        self.ahead = _AHEAD + block / codec_rate
        self.underruns = 0
        self._capacity = 0
        self._busy = threading.Lock()
        with _refusals(f"cannot open the loudspeaker {self.name!r}"):
            self._stream = _sounddevice().RawOutputStream(
                self.rate, self._block, device.index, self._channels, "float32", LATENCY
            )

    @property
    def resampling(self) -> float:
        """Seconds that resampling adds."""
        return self._resampler.delay

    def start(self) -> None:
        """Begin to play: a few blocks of silence, which cover for blocks that come late."""
        with self._busy, _refusals(f"the loudspeaker {self.name!r} failed{_GONE}"):
            self._stream.start()
            self._capacity = int(self._stream.write_available)
            self._stream.write(bytes(4 * self._channels * round(self.ahead * self.rate)))

    def write(self, audio: NDArray[np.float32]) -> None:
        """Play [samples]; waits while the device's buffer is full.

        Raises:
            DeviceError: a device that is gone.
        """
        samples = np.clip(self._resampler.push(audio), -1, 1)
        if self._channels > 1:
            samples = np.repeat(samples, self._channels)
        with self._busy, _refusals(f"the loudspeaker {self.name!r} failed{_GONE}"):
            self.underruns += bool(self._stream.write(samples.tobytes()))

    def waiting(self) -> float:
        """Seconds of sound that wait to be played."""
        with self._busy, _refusals(f"the loudspeaker {self.name!r} failed{_GONE}"):
            return min(max(0, self._capacity - int(self._stream.write_available)), self._capacity) / self.rate

    def drain(self) -> None:
        """Wait until all has been played, as far as the device's buffer tells."""
        time.sleep(self.waiting() + LATENCY)

    def close(self) -> None:
        """Let go of the device."""
        _close(self._stream, self._busy)


def _settings(device: DeviceInfo, kind: Kind, codec_rate: int, rate: int | None) -> tuple[int, int]:
    """Rate and channels that the device takes: mono before stereo, the codec's rate before its own."""
    sd = _sounddevice()
    check = sd.check_input_settings if kind == "input" else sd.check_output_settings
    rates = dict.fromkeys([codec_rate, device.sample_rate, 48000, 44100] if rate is None else [rate])
    problem = ""
    for candidate in rates:
        for channels in range(1, min(2, device.channels(kind)) + 1):
            try:
                check(device=device.index, channels=channels, dtype="float32", samplerate=candidate)
            except (sd.PortAudioError, ValueError) as error:
                problem = problem or _reason(error)
            else:
                return candidate, channels
    listed = ", ".join(str(candidate) for candidate in rates)
    raise DeviceError(f"{device.name!r} refuses {kind} at {listed} Hz ({problem})")


def _close(stream: Any, busy: threading.Lock) -> None:
    """Abort and close; a device that hangs or is gone is left behind.

    So is one that a call still waits for: what two threads do to one stream of ALSA's may end the whole process.
    """
    if not busy.acquire(timeout=_CLOSING):
        return

    def close() -> None:
        for call in (stream.abort, stream.close):
            with suppress(Exception):
                call()

    thread = threading.Thread(target=close, name="edgecodec close", daemon=True)
    thread.start()
    thread.join(_CLOSING)


@cache
def _sounddevice() -> Any:
    try:
        import sounddevice
    except OSError:  # what sounddevice raises where the library is missing
        raise DeviceError(
            "PortAudio library not found: install it (Debian: apt-get install libportaudio2; Fedora: dnf install "
            "portaudio; macOS: brew install portaudio)"
        ) from None
    except Exception as error:  # PortAudio cannot start: what it raises depends on the machine
        raise DeviceError(f"PortAudio cannot start: {_reason(error)}") from None
    return sounddevice


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """PortAudio's errors, as ours."""
    sd = _sounddevice()
    try:
        yield
    except (sd.PortAudioError, ValueError) as error:
        raise DeviceError(f"{what}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())
