"""A loaded codec: audio to codes and codes to audio, for whole clips; streams come from here too."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bundle import Bundle, read_bundle
from .code_coder import CodeCoder
from .decoder_stream import DecoderStream
from .encoder_stream import EncoderStream
from .errors import AudioError, BundleError, DeviceError
from .latent_stream import LatentStream
from .manifest import Effort, Manifest
from .packet_coder import PacketCoder
from .packets import PacketFormat
from .providers import Device
from .samples import as_audio, check_channels, grouped
from .sessions import Sessions
from .trial import try_out
from .variable_rate import VariableRate, first_spread
from .verdicts import require_agreement


def load(
    bundle: str | os.PathLike[str] = "speech", *, device: Device = "cpu", threads: int = 1, trust: bool = False
) -> Codec:
    """Load a bundle by its shipped name, or by the path of its folder.

    One that is not shipped is first tried in a process with limits, once: its graphs are programs (see `trial`).

    Args:
        bundle: a shipped name (`"speech"`), or a path.
        device: `"cpu"`; `"cuda"`, `"openvino"`, `"coreml"`, `"directml"`, `"xnnpack"` or `"webgpu"`, refused when it
            cannot be had, or does not give the golden codes of the bundle; `"auto"`, CUDA where there is one that
            does, else the CPU. `Codec.device` says what was chosen.
        threads: CPU threads per operator. One is best for streams; more help long clips a little.
        trust: no trial, for a bundle whose maker is known. Programs that are frozen into one file have none anyway.

    Raises:
        BundleError: a bundle that is missing, altered, contradicts itself, or fails its trial.
        DeviceError: a device that cannot be had, or is refused.
    """
    codec = load_unproven(bundle, device=device, threads=threads, trust=trust)
    try:
        require_agreement(codec)
    except DeviceError:
        if device != "auto":
            raise
        codec = Codec(codec.bundle, Sessions(codec.bundle, "cpu", threads))
    return codec


def load_unproven(bundle: str | os.PathLike[str], *, device: Device, threads: int = 1, trust: bool = False) -> Codec:
    """As `load`, on a device that may give other codes: for who measures that."""
    checked = read_bundle(bundle)
    try_out(checked, trust=trust)
    return Codec(checked, Sessions(checked, device, threads))


def _loaded_again(path: str, device: Device, threads: int, fingerprint: bytes) -> Codec:
    """The bundle of a codec that was pickled, which has run already."""
    checked = read_bundle(path)
    if checked.fingerprint != fingerprint:
        raise BundleError(
            f"{path}: is another bundle ({checked.fingerprint.hex()}) than was pickled ({fingerprint.hex()})"
        )
    return Codec(checked, Sessions(checked, device, threads))


class Codec:
    """A codec, immutable and safe to share between threads; what changes from call to call is in the streams.

    Make one with `edgecodec.load`.
    """

    def __init__(self, bundle: Bundle, sessions: Sessions) -> None:
        self.bundle, self._sessions = bundle, sessions

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, for pools of processes, as the place of its bundle: loaded there again, it must be the same."""
        return _loaded_again, (str(self.bundle.path.resolve()), self.device, self._sessions.threads, self.fingerprint)

    def __repr__(self) -> str:
        m = self.manifest
        return f"<Codec {m.name}: {m.sample_rate} Hz, {m.frame_size} samples a frame, on {self.device}>"

    @property
    def manifest(self) -> Manifest:
        """All facts about the bundle."""
        return self.bundle.manifest

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that name this bundle's graphs in files."""
        return self.bundle.fingerprint

    @property
    def device(self) -> Device:
        """Where the graphs run, never `auto`."""
        return self._sessions.device

    @property
    def sample_rate(self) -> int:
        """Hz, of all audio that goes in and comes out."""
        return self.manifest.sample_rate

    @property
    def frame_size(self) -> int:
        """Samples per code frame."""
        return self.manifest.frame_size

    @property
    def channels(self) -> int:
        """Channels that one stream of codes holds: 2 of a stereo bundle, else 1."""
        return self.manifest.channels

    @property
    def max_stages(self) -> int:
        """Stages trained."""
        return self.manifest.quantizer.max_stages

    @property
    def delay(self) -> int:
        """Samples by which a decoded stream lags behind the encoded one, to drop at its start."""
        return self.manifest.delay

    @property
    def bitrates(self) -> tuple[float, ...]:
        """The possible bitrates in kbps, for 1, 2, … max_stages stages."""
        return self.manifest.bitrates

    def stages(self, *, bitrate: float | None = None, stages: int | None = None) -> int:
        """The stage count that a bitrate in kbps or a stage count asks for.

        Neither: 6 kbps where that is possible, else all stages.

        Raises:
            BitrateError: both, or one that this bundle does not offer; the message lists the possible ones.
        """
        return self.manifest.stages(bitrate=bitrate, stages=stages)

    def frames(self, samples: int) -> int:
        """Code frames of a clip: enough that the decoder, which lags by `delay`, answers every sample."""
        return self.manifest.frames(samples)

    def encode(
        self,
        audio: ArrayLike,
        *,
        bitrate: float | None = None,
        stages: int | None = None,
        effort: Effort = "live",
    ) -> NDArray[np.int64]:
        """Encode whole clips.

        Args:
            audio: [T], [C, T] or [B, C, T] at `sample_rate`, in [-1, 1]. Channels are separate streams; of a stereo
                bundle, pairs of them are, and the last channel stands for a missing one.
            bitrate: kbps, one of `bitrates`.
            stages: or the stage count, 1..max_stages. With neither: 6 kbps where possible, else all stages.
            effort: how far the search for codes goes. `live` costs least, and is the default of clips and streams
                alike, so that both give the same codes. `fast` and `best` follow 4 and 8 paths after every stage, and
                sound better, for files; what decodes them is the same. A bundle without such a search knows `live`
                only, and takes the others for it.

        Returns:
            Codes int64 [B * streams, n_stages, frames], the channels of the first clip first; the last frames see
            zeros after the end. Where a frame has more than one code of a stage, as many lines in place of stages.

        Raises:
            AudioError: no samples, a wrong shape, or samples that are not finite.
            BitrateError: a bitrate or stage count that this bundle does not offer, or no such effort.
        """
        paths = self.manifest.paths(effort)
        n = self.stages(bitrate=bitrate, stages=stages)
        x = np.asarray(audio)
        if x.ndim not in (1, 2, 3) or x.size == 0:
            raise AudioError(f"audio must be [T], [C, T] or [B, C, T] and not empty, not of shape {list(x.shape)}")
        if x.ndim > 1:
            check_channels(x.shape[-2])
        x = grouped(as_audio(np.atleast_2d(x)), self.channels)
        x = x.reshape(-1, *x.shape[-2:])
        padding = self.frames(x.shape[2]) * self.frame_size - x.shape[2]
        padded = np.pad(x, ((0, 0), (0, 0), (0, padding)))
        state = self._sessions.zero_state("encoder", len(x))
        return self._sessions.encode(padded, state, n, paths=paths, last=True)[0]

    def decode(self, codes: ArrayLike, samples: int | None = None) -> NDArray[np.float32]:
        """Decode whole clips.

        Args:
            codes: integers [B, n_stages, T], n_stages in 1..max_stages, each in 0..codebook_size - 1. B counts
                streams of clips, as `encode` returns them. Frames may lack the last stages: -1 stands there.
            samples: the clip's length, where it is known; else all that the codes hold.

        Returns:
            Audio [B, channels, samples] at `sample_rate`, the delay removed.

        Raises:
            BitstreamError: codes of a wrong shape, type or range.
            AudioError: more samples than the codes hold.
        """
        checked = self.check_codes(codes)
        available = max(checked.shape[2] * self.frame_size - self.delay, 0)
        wanted = available if samples is None else samples
        if not 0 <= wanted <= available:
            raise AudioError(f"{wanted} samples were asked for, the codes hold {available}")
        audio, _ = self._sessions.decode(checked, self._sessions.zero_state("decoder", len(checked)), last=True)
        return audio[:, :, self.delay : self.delay + wanted]

    def check_codes(self, codes: ArrayLike, streams: int | None = None) -> NDArray[np.int64]:
        """Codes as int64 [B, n_stages, T], or a BitstreamError; nothing unchecked reaches a graph."""
        return self.manifest.check_codes(codes, streams)

    def encoder_stream(
        self,
        *,
        bitrate: float | None = None,
        stages: int | None = None,
        effort: Effort = "live",
        channels: int = 1,
        frames_per_packet: int = 1,
        redundancy: int = 0,
        after_silence: bool = False,
        variable: bool = False,
    ) -> EncoderStream:
        """A stream that turns audio blocks of any length into packets; see `EncoderStream`, and `encode` of effort.

        `variable`: frames get as many stages as their sound needs; the mean of the packets' codes is the bitrate.
        """
        n = self.stages(bitrate=bitrate, stages=stages)
        return EncoderStream(
            self._streaming(),
            n,
            paths=self.manifest.paths(effort),
            channels=channels,
            frames_per_packet=frames_per_packet,
            redundancy=redundancy,
            after_silence=after_silence,
            variable=self.variable_rate(channels=channels, effort=effort) if variable else None,
        )

    def decoder_stream(self, *, channels: int = 1, after_silence: bool = False) -> DecoderStream:
        """A stream that turns packets into audio; see `DecoderStream`."""
        return DecoderStream(self._streaming(), channels=channels, after_silence=after_silence)

    def latent_stream(self, *, channels: int = 1, long_calls: bool = False) -> LatentStream:
        """A stream that turns audio blocks into latents, with `long_calls` later and faster; see `LatentStream`."""
        return LatentStream(self._streaming(), channels=channels, long_calls=long_calls)

    def variable_rate(self, *, channels: int = 1, effort: Effort = "fast") -> VariableRate:
        """What gives each frame of latents as many stages as its sound needs; see `VariableRate`."""
        coder = self.code_coder(channels=channels)
        return VariableRate(self._sessions, coder, self.manifest.paths(effort), self._spread)

    def packet_format(self, *, channels: int = 1) -> PacketFormat:
        """How this codec's packets look as bytes."""
        m = self.manifest
        coder = PacketCoder(self.code_coder(channels=channels), self.max_stages)
        return PacketFormat(m.streams(channels), m.quantizer.code_bits, m.layout, coder)

    def code_coder(self, *, channels: int = 1) -> CodeCoder:
        """How this codec's codes become few bytes: led by the bundle's entropy model, where it has one."""
        return CodeCoder(self.manifest.layout, self.bundle.predictor, self.manifest.streams(channels))

    @cached_property
    def _spread(self) -> float:
        """Found once: it takes as long as encoding a tenth of a second."""
        return first_spread(self._sessions)

    def _streaming(self) -> Sessions:
        """The sessions, if they take any number of frames."""
        frames = self.manifest.call_frames
        if frames > 1:
            raise BundleError(
                f"{self.manifest.name}: its graphs take {frames} frames a call, whole clips only; for streams and "
                "files take the bundle that it was made from"
            )
        return self._sessions
