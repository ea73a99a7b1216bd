"""A network that loses packets, simulated: what a file sounds like behind it, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from ..codec import Codec
from ..decoder_stream import DecoderStatistics
from ..errors import AudioError
from ..files.audio import AUDIO_SUFFIXES, AudioWriter, Resampler, open_audio
from ..files.output import open_output
from ..packets import Packet, payload_bytes
from ..progress import Progress, silent
from .measures import SCORING_RATE, estoi, pesq_wb, scoring_lacks
from .packet_loss import GilbertModel

_PIECE_SECONDS = 10.0  # about; PESQ cannot hold more than 50 utterances at a time


@dataclass(frozen=True)
class Scores:
    """Likeness to the original, mean of pieces and channels that hold speech; None where none does."""

    pesq_wb: float | None  # ITU-T P.862.2, 1.04 to 4.64
    estoi: float | None  # 0 to 1


@dataclass(frozen=True)
class LossReport:
    """What `simulate_file` did. The scores are None where `pesq` or `pystoi` is not installed."""

    seconds: float  # of audio
    stages: int
    redundancy: int  # stages repeated
    payload_kbps: float  # codes, those that are repeated included
    packet_kbps: float  # with the heads of the packets
    packets: int
    lost: int
    longest_burst: int  # packets
    concealed: int
    recovered: int
    lossless: Scores | None
    lossy: Scores | None


def simulate_file(
    codec: Codec,
    source: str,
    target: str,
    model: GilbertModel,
    *,
    stages: int,
    redundancy: int = 0,
    frames_per_packet: int = 1,
    seed: int = 0,
    force: bool = False,
    progress: Progress = silent,
) -> LossReport:
    """Send an audio file through a network that loses packets, and write what arrives; memory grows with the file.

    Raises:
        AudioError: audio that cannot be read. EdgecodecError: output that exists or cannot be written.
    """
    with open_output(target, force=force, suffixes=AUDIO_SUFFIXES, source=source) as output:
        samples, rate = _read(source)
        original = _resampled(samples, rate, codec.sample_rate)
        encoder = codec.encoder_stream(
            stages=stages, channels=len(samples), frames_per_packet=frames_per_packet, redundancy=redundancy
        )
        form = codec.packet_format(channels=len(samples))
        wire = [form.to_bytes(packet) for packet in encoder.push(original) + encoder.flush()]
        packets = [form.from_bytes(data) for data in wire]
        lost = model.draw(len(packets), np.random.default_rng(seed))
        lossy, statistics = play(codec, packets, lost, progress, channels=len(samples))
        lossless, _ = play(codec, packets, np.zeros_like(lost), progress, channels=len(samples))
        lossy, lossless = lossy[:, : original.shape[1]], lossless[:, : original.shape[1]]
        with AudioWriter(output, rate, len(samples)) as writer:
            restored = _resampled(lossy, codec.sample_rate, rate)[:, : samples.shape[1]]
            writer.write(np.pad(restored, ((0, 0), (0, samples.shape[1] - restored.shape[1]))))
    scored = scoring_lacks() is None
    seconds = samples.shape[1] / rate
    return LossReport(
        seconds=seconds,
        stages=stages,
        redundancy=redundancy,
        payload_kbps=sum(map(payload_bytes, wire)) * 8 / 1000 / seconds,
        packet_kbps=sum(map(len, wire)) * 8 / 1000 / seconds,
        packets=len(packets),
        lost=int(lost.sum()),
        longest_burst=_longest_run(lost),
        concealed=statistics.concealed,
        recovered=statistics.recovered,
        lossless=score(original, lossless, codec.sample_rate, progress) if scored else None,
        lossy=score(original, lossy, codec.sample_rate, progress) if scored else None,
    )


def play(
    codec: Codec,
    packets: Sequence[Packet],
    lost: NDArray[np.bool_],
    progress: Progress = silent,
    *,
    channels: int | None = None,
) -> tuple[NDArray[np.float32], DecoderStatistics]:
    """What a live player makes of packets of which some are lost: audio [channels, samples], the delay removed.

    It decides on each packet when the one after it is, or is not, there. Without a number of channels, all that the
    streams hold are given.
    """
    stream = codec.decoder_stream(channels=channels or len(packets[0].codes) * codec.channels)
    audio = []
    for i, packet in enumerate(packets):
        progress("packets played", i + 1, len(packets))
        if not lost[i]:
            audio.append(stream.push(packet))
            continue
        following = packets[i + 1] if i + 1 < len(packets) and not lost[i + 1] else None
        audio.append(stream.conceal(following, frames=packet.frames))
    statistics = stream.statistics
    joined = np.concatenate([*audio, stream.flush()], axis=-1).reshape(stream.channels, -1)
    return joined[:, stream.delay :], statistics


def score(
    original: NDArray[np.float32], decoded: NDArray[np.float32], sample_rate: int, progress: Progress = silent
) -> Scores:
    """Score `decoded` [channels, samples] against `original` of the same shape, piece by piece."""
    pieces = max(1, round(original.shape[1] / sample_rate / _PIECE_SECONDS))
    pairs = [
        pair
        for channel in zip(
            *(_resampled(audio, sample_rate, SCORING_RATE) for audio in (original, decoded)), strict=True
        )
        for pair in zip(*(np.array_split(audio, pieces) for audio in channel), strict=True)
        if all(piece.any() for piece in pair)
    ]
    scores = []
    for i, (x, y) in enumerate(pairs):
        scores.append((pesq_wb(x, y, SCORING_RATE), estoi(x, y, SCORING_RATE)))
        progress("pieces scored", i + 1, len(pairs))
    return Scores(_mean([pesq for pesq, _ in scores]), _mean([intelligible for _, intelligible in scores]))


def _mean(scores: list[float]) -> float | None:
    found = [score for score in scores if np.isfinite(score)]
    return fmean(found) if found else None


def _read(source: str) -> tuple[NDArray[np.float32], int]:
    """All audio of a file [channels, samples], and its sample rate."""
    with open_audio(source) as audio:
        samples = audio.read(None)
        if not samples.size:
            raise AudioError(f"{audio.name}: holds no samples")
        return samples, audio.sample_rate


def _resampled(audio: NDArray[np.float32], source_rate: int, target_rate: int) -> NDArray[np.float32]:
    return Resampler(source_rate, target_rate, len(audio)).push(audio, last=True)


def _longest_run(lost: NDArray[np.bool_]) -> int:
    ends = np.flatnonzero(np.diff(np.concatenate([[False], lost, [False]]).astype(np.int8)))
    return int((ends[1::2] - ends[::2]).max(initial=0))
