"""EnCodec's stereo model (48 kHz): chunks of a second that know nothing of each other, faded into the next.

    chunk   samples [i * stride, i * stride + length); length 48,000, stride 47,520: 480 overlap
    scale   sqrt(mean of mono²) + 1e-8, of each chunk; the network hears chunk / scale
    frame   one stride; its latents are the chunk's columns (150), and the scale

GroupNorm spans the chunk, so a frame is coded or not as a whole, and the encoder waits for the 480 samples after it.
The samples after a clip's last frame are silence: the original's feature extractor pads a clip so.

Where two chunks overlap, the original weights each by a triangle and divides by the sum of the weights: that is a
crossfade, the next chunk weighted by (j + 1) / (overlap + 1) at its sample j.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from edgecodec.errors import CheckpointError
from edgecodec_training.causal import Causal
from torch import Tensor, nn

from .adapted import AdaptedCodec, Contract
from .chunk_layers import ChunkLayers
from .chunk_quantizer import SIDE, ChunkQuantizer
from .encodec_config import LEARNING, codebooks, facts
from .euclidean import EuclideanQuantizer
from .graphs import TRANSLATIONS
from .lookahead import join, kept
from .seanet import decoder_layers, encoder_layers
from .weights import Weights

_QUIETEST = 1e-8  # added to a scale: silence is not divided by zero


@dataclass(frozen=True)
class Chunks:
    """How a clip is cut; samples of each channel."""

    channels: int
    length: int
    stride: int
    columns: int  # of latents

    @property
    def overlap(self) -> int:
        """What a chunk shares with the next one."""
        return self.length - self.stride


def chunked_codec(c: dict[str, Any], weights: Weights) -> AdaptedCodec:
    """The codec of a chunked configuration.

    Raises:
        CheckpointError: chunks that cannot be cut, tensors that contradict the configuration.
    """
    chunks, dim = _chunks(c, weights.where), c["hidden_size"]
    encoder, decoder = ChunkedEncoder(c, chunks, weights), ChunkedDecoder(c, chunks, weights)
    for network in (encoder, decoder):
        _require_room(network, chunks.columns, weights.where)
    books = codebooks(c, weights)
    weights.finish(LEARNING)
    contract = Contract(
        c["sampling_rate"],
        chunks.stride,
        chunks.columns * dim + 1,
        c["codebook_size"],
        len(books),
        channels=chunks.channels,
        stage_widths=(chunks.columns,) * len(books),
        side=SIDE,
        encoder_lookahead=1,
        encoder_start=2,
    )
    quantizer = ChunkQuantizer(EuclideanQuantizer(books), chunks.columns, dim)
    return AdaptedCodec("encodec", contract, encoder, quantizer, decoder, facts(c) | {"chunk_length": chunks.length})


def _chunks(c: dict[str, Any], where: str) -> Chunks:
    """How this configuration cuts, as transformers rounds it."""
    seconds, overlap = c["chunk_length_s"], c["overlap"]
    hop = math.prod(c["upsampling_ratios"])
    if not (_is_number(seconds) and _is_number(overlap) and 0 < seconds < 60 and 0 < overlap <= 0.5):
        raise CheckpointError(f"{where}: chunks of {seconds!r:.40} s that overlap by {overlap!r:.40} are not adapted")
    length = int(seconds * c["sampling_rate"])
    stride = max(1, int((1.0 - overlap) * length))
    if length % hop or not 0 < length - stride <= length // 2:
        raise CheckpointError(f"{where}: chunks of {length} samples, every {stride}, are no whole columns of {hop}")
    if c["pad_mode"] != "reflect":
        raise CheckpointError(f"{where}: chunks padded by {c['pad_mode']} are not adapted, only by reflection")
    return Chunks(c["audio_channels"], length, stride, length // hop)


def _require_room(network: nn.Module, columns: int, where: str) -> None:
    """Refuse chunks so short that a layer could not mirror its columns; the deepest have the fewest."""
    padded = [layer.padding for layer in network.modules() if isinstance(layer, nn.ReflectionPad2d)]
    widest = max((max(padding) for padding in padded), default=0)
    if columns <= widest:
        raise CheckpointError(f"{where}: chunks of {columns} columns cannot be reflected by {widest}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@torch.library.custom_op("edgecodec::as_batch", mutates_args=())
def as_batch(x: Tensor) -> Tensor:
    """`x` [B, T, …] as [B * T, …]."""
    return x.flatten(0, 1).clone()


@as_batch.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0] * x.shape[1], *x.shape[2:])


@torch.library.custom_op("edgecodec::as_frames", mutates_args=())
def as_frames(x: Tensor, like: Tensor) -> Tensor:
    """`x` [B * T, …] as [B, T, …], B and T those of `like` [B, T, …]."""
    return x.reshape(*like.shape[:2], *x.shape[1:]).clone()


@as_frames.register_fake
def _(x: Tensor, like: Tensor) -> Tensor:
    return x.new_empty(*like.shape[:2], *x.shape[1:])


def _as_batch_nodes(x: Any) -> Any:
    from onnxscript import opset18 as op

    shape: Any = op.Constant(value_ints=[-1, *map(int, x.shape[2:])])
    return op.Reshape(x, shape)


def _as_frames_nodes(x: Any, like: Any) -> Any:
    from onnxscript import opset18 as op

    rest: Any = op.Constant(value_ints=list(map(int, x.shape[1:])))
    return op.Reshape(x, op.Concat(op.Shape(like, end=2), rest, axis=0))


TRANSLATIONS[torch.ops.edgecodec.as_batch.default] = _as_batch_nodes
TRANSLATIONS[torch.ops.edgecodec.as_frames.default] = _as_frames_nodes


class ChunkedEncoder(Causal):
    """audio `[B, C, stride * T]`, state and `last` to latents `[B, T', columns * D + 1]`.

    The state is a flag, 0 before the first call, and the last frame of audio: its chunk ends in the next one.
    """

    def __init__(self, c: dict[str, Any], chunks: Chunks, weights: Weights) -> None:
        super().__init__()
        self.chunks = chunks
        self.network = nn.Sequential(*encoder_layers(c, ChunkLayers(weights)))
        self.state_size = 1 + chunks.channels * chunks.stride
        # Once for each channel: the exporter takes a single number so near to zero for zero, and leaves it out.
        self.register_buffer("quietest", torch.full((chunks.channels,), _QUIETEST), persistent=False)

    def forward(self, x: Tensor, state: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """See the class and `Contract`."""
        stride = self.chunks.stride
        flag, past = state.split([1, self.state_size - 1], dim=1)
        first = (flag[:1, 0] == 0).long()  # all rows of a batch are of the same age
        past, x = past.reshape(-1, self.chunks.channels, 1, stride), x.unsqueeze(2)
        chunks = self._cut(join(past, x, first, last, stride, stride))
        heard = as_batch(chunks)
        scales = self._loudness(heard) + self.get_buffer("quietest")  # [B * T', C], all channels alike
        columns = self.network((heard / scales[:, :, None]).unsqueeze(2)).squeeze(2)  # [B * T', D, columns]
        latents = torch.cat([columns.transpose(1, 2).flatten(1), scales[:, :1]], dim=1)
        return as_frames(latents, chunks), torch.cat([torch.ones_like(flag), kept(past, x).flatten(1)], dim=1)

    def _loudness(self, heard: Tensor) -> Tensor:
        """`[N, C, length]` to `[N, 1]`, over the mean of its channels.

        By pooling, which does every row by itself: onnxruntime sums a single row in another order than one of several.
        In two steps, which round less.
        """
        power = heard.mean(1).square()[:, None, None]
        columns = self.chunks.columns
        means = nn.functional.avg_pool2d(power, (1, self.chunks.length // columns))
        mean: Tensor = nn.functional.avg_pool2d(means, (1, columns))
        return mean.flatten(1).sqrt()

    def _cut(self, seen: Tensor) -> Tensor:
        """`[B, C, 1, stride * (T + 1)]` into chunks `[B, T, C, length]`."""
        stride, (batch, channels) = self.chunks.stride, seen.shape[:2]
        begins = seen[..., :-stride].reshape(batch, channels, -1, stride)
        following = seen[..., stride:].reshape(batch, channels, -1, stride)
        return torch.cat([begins, following[..., : self.chunks.overlap]], dim=3).transpose(1, 2)


class ChunkedDecoder(Causal):
    """latents `[B, T, columns * D + 1]` and state to audio `[B, C, stride * T]`.

    The state is a flag, 0 before the first call, and what the last chunk has beyond its frame.
    """

    def __init__(self, c: dict[str, Any], chunks: Chunks, weights: Weights) -> None:
        super().__init__()
        self.chunks, self.dim = chunks, c["hidden_size"]
        self.network = nn.Sequential(*decoder_layers(c, ChunkLayers(weights)))
        self.state_size = 1 + chunks.channels * chunks.overlap
        fade = torch.arange(1, chunks.overlap + 1) / (chunks.overlap + 1)
        self.register_buffer("fade", fade, persistent=False)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`."""
        c = self.chunks
        rows, scale = as_batch(x).split([c.columns * self.dim, 1], dim=1)
        columns = rows.reshape(rows.shape[0], c.columns, self.dim).transpose(1, 2)
        heard = self.network(columns.unsqueeze(2)).squeeze(2) * scale[:, :, None]
        return self._overlap(as_frames(heard, x), state)

    def _overlap(self, chunks: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Chunks `[B, T, C, length]`, each faded into the next, as `[B, C, stride * T]`."""
        c = self.chunks
        flag, tail = state.split([1, self.state_size - 1], dim=1)
        begins, middles, ends = chunks.split([c.overlap, c.stride - c.overlap, c.overlap], dim=3)
        # Before the first chunk there is nothing to fade from: it is faded from itself.
        before = torch.where(flag[:, :, None, None] > 0, tail.reshape(-1, 1, c.channels, c.overlap), begins[:, :1])
        before = torch.cat([before, ends[:, :-1]], dim=1)
        faded = before + self.get_buffer("fade") * (begins - before)
        audio = torch.cat([faded, middles], dim=3).transpose(1, 2)  # [B, C, T, stride]
        return audio.flatten(2), torch.cat([torch.ones_like(flag), ends[:, -1].flatten(1)], dim=1)
