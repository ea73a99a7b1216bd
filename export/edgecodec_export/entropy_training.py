"""Teaching a bundle's entropy model: from audio to codes, from codes to the network, from that to whole numbers."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from edgecodec.code_coder import CodeCoder
from edgecodec.entropy_model import EntropyModel
from edgecodec.errors import ExportError
from edgecodec.evaluation.clips import Clip
from edgecodec.layout import Layout
from edgecodec.progress import Progress, silent
from edgecodec.sessions import Sessions
from edgecodec_training.stage_runs import runs_of_counts
from numpy.typing import NDArray
from torch import Tensor

from .entropy_network import EntropyConfig, EntropyNetwork

HELD_OUT = 20  # of so many clips one is not learned from, and tells what is saved
_PACKET_FRAMES = (2, 4, 8)
_MEASURED_FRAMES = 6000

Codes = NDArray[np.uint16]  # [lines, T] of one stream


@dataclass(frozen=True)
class Lesson:
    """What was learned: the arrays of `entropy.npz`, and the share of the bits that they save, by stage count."""

    arrays: dict[str, NDArray[Any]]
    saved: dict[int, float]
    frames: int
    seconds: float

    def npz(self) -> bytes:
        """The file."""
        buffer = io.BytesIO()
        named: dict[str, Any] = dict(self.arrays)
        np.savez(buffer, **named)
        return buffer.getvalue()

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "frames": self.frames,
            "seconds": round(self.seconds, 1),
            "saved": {str(stages): round(share, 4) for stages, share in self.saved.items()},
        }


def code_vectors(sessions: Sessions) -> NDArray[np.float32]:
    """Vectors [S, K, D] of a codec's codes, as its decoder sees them: what each changes in the latents."""
    layout, quantizer = sessions.manifest.layout, sessions.manifest.quantizer
    stages, entries = quantizer.max_stages, quantizer.codebook_size
    found = []
    for stage in range(stages):
        codes = np.zeros((1, layout.lines(stages), entries), np.int64)
        codes[0, layout.lines(stage)] = np.arange(entries)
        found.append(sessions.latents(codes)[0])
    return np.stack(found)


def learn(
    clips: Sequence[Codes],
    layout: Layout,
    codebooks: NDArray[np.float32],
    config: EntropyConfig,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Lesson:
    """Learn from codes [lines, T] of many clips, all stages.

    Raises:
        ExportError: a layout whose stages have no whole ratios of steps, or too few codes.
    """
    stages, entries, _ = codebooks.shape
    widths = [layout.width(stage) for stage in range(stages)]
    if any(after % before for before, after in itertools.pairwise(widths)):
        raise ExportError(f"no entropy model for stages of {widths} codes a frame: each must be a multiple of the last")
    held = [clip for i, clip in enumerate(clips) if i % HELD_OUT == 0]
    taught = np.concatenate([clip for i, clip in enumerate(clips) if i % HELD_OUT], axis=1)
    if taught.shape[1] < 10 * config.chunk_frames:
        raise ExportError(f"{taught.shape[1]} frames of codes are too few to learn from: give more audio")
    start = time.monotonic()
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    counts = np.stack([np.bincount(_of_stage(taught, layout, s).ravel(), minlength=entries) for s in range(stages)])
    network = EntropyNetwork(config, layout, codebooks, counts)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=1e-4)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / 100) * (1 - step / config.steps)
        optimizer.zero_grad(set_to_none=True)
        network(*_batch(taught, layout, config, random)).mean().backward()
        optimizer.step()
        progress("steps of the entropy model", step + 1, config.steps)
    ranges = [_batch(taught, layout, config, random) for _ in range(4)]
    arrays = network.to_arrays(*(_joined(parts) for parts in zip(*ranges, strict=True)))
    saved = savings(EntropyModel(arrays), held, layout, config.chunk_frames)
    return Lesson(arrays, saved, taught.shape[1], time.monotonic() - start)


def savings(model: EntropyModel, clips: Sequence[Codes], layout: Layout, chunk_frames: int) -> dict[int, float]:
    """The share of the bits that a model saves at 1, 2, 4, … stages, in chunks of so many frames."""
    stages = layout.stages(len(clips[0]))
    coder = CodeCoder(layout, model, 1)
    taken, frames = np.zeros(stages), 0
    for chunk in _chunks(clips, chunk_frames, _MEASURED_FRAMES):
        taken += coder.bits(chunk[None].astype(np.int64))[0].sum(axis=1)
        frames += chunk.shape[1]
    fixed = np.log2(model.entries) * frames * np.cumsum([layout.width(stage) for stage in range(stages)])
    shares = 1 - np.cumsum(taken) / fixed
    counts = sorted({*(2**i for i in range(8) if 2**i < stages), stages})
    return {n: float(shares[n - 1]) for n in counts}


def _chunks(clips: Sequence[Codes], frames: int, most: int) -> Iterator[Codes]:
    left = most
    for clip in clips:
        for start in range(0, clip.shape[1], frames):
            if left <= 0:
                return
            yield clip[:, start : start + frames]
            left -= frames


def _of_stage(codes: NDArray[Any], layout: Layout, stage: int) -> NDArray[Any]:
    """Codes [..., lines, T] of one stage in their order in time, [..., steps]."""
    lines = codes[..., layout.lines(stage) : layout.lines(stage + 1), :]
    steps: NDArray[Any] = np.swapaxes(lines, -1, -2).reshape(*codes.shape[:-2], -1)
    return steps


def _batch(
    codes: Codes, layout: Layout, config: EntropyConfig, random: np.random.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """Codes of every stage [B, steps], and whether a frame has them: chunks of a file, or packets; all stages or mixed.

    As variable rate has it, the count stays for a few frames, and then is another.
    """
    frames = config.chunk_frames if random.random() < 0.8 else int(random.choice(_PACKET_FRAMES))
    frames = min(frames, codes.shape[1])
    count = max(1, config.batch_frames // frames)
    starts = random.integers(0, codes.shape[1] - frames + 1, count)
    windows = np.stack([codes[:, start : start + frames] for start in starts]).astype(np.int64)  # [B, lines, T]
    stages = layout.stages(codes.shape[0])
    middle = 2.0 ** random.uniform(0, np.log2(stages), (count, 1))
    mixed = runs_of_counts(middle, frames, stages, random)
    counts = np.where(random.random((count, 1)) < 0.5, stages, mixed)
    of_stage = [torch.from_numpy(np.ascontiguousarray(_of_stage(windows, layout, s))) for s in range(stages)]
    active = [torch.from_numpy(np.repeat(counts > s, layout.width(s), axis=1)) for s in range(stages)]
    return of_stage, active


def _joined(batches: Sequence[list[Tensor]]) -> list[Tensor]:
    """Stage by stage the rows of several batches; shorter ones end with steps that no frame has."""
    longest = [max(batch[s].shape[1] for batch in batches) for s in range(len(batches[0]))]
    pad = torch.nn.functional.pad
    return [
        torch.cat([pad(batch[s], (0, steps - batch[s].shape[1])) for batch in batches])
        for s, steps in enumerate(longest)
    ]


def codes_of(
    encode: Callable[[NDArray[np.float32]], NDArray[np.int64]],
    clips: Sequence[Clip],
    sample_rate: int,
    progress: Progress = silent,
) -> list[Codes]:
    """The codes [lines, T] that `encode` makes of each clip [samples]; a DataError for a file that is no audio."""
    found = []
    for i, clip in enumerate(clips):
        audio = clip.read(sample_rate)
        if audio.size:
            found.append(encode(audio).astype(np.uint16))
        progress("clips encoded", i + 1, len(clips))
    return found
