"""EnCodec (Défossez et al. 2022, arXiv:2210.13438): the causal 24 kHz model, of transformers' or the original's names.

    encoder  conv 7 · (residual unit, ELU, conv 2r / r) for r = 2, 4, 5, 8 · LSTM · ELU · conv 7
    decoder  conv 7 · LSTM · (ELU, transposed conv 2r / r, residual unit) for r = 8, 5, 4, 2 · ELU · conv 7

The original pads the start of a clip by reflection, which needs samples that a stream has not heard yet. There are two
ways to start. `zero`: from silence; the codes of the first frames differ (most of the first 7, none after the 22nd),
all others are the original's. `exact`: as the original, where the first call of a stream has 7 frames or is the whole
clip.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from edgecodec.errors import CheckpointError
from edgecodec_training.causal import Causal
from edgecodec_training.convolutions import CausalConv, CausalUpsample
from torch import Tensor

from .adapted import AdaptedCodec, Contract
from .euclidean import EuclideanQuantizer
from .seanet import Kind, seanet_decoder, seanet_encoder
from .start import MirroredConv
from .weights import Weights

Start = Literal["exact", "zero"]
# From the original package's names to those of transformers.
_ORIGINAL_NAMES = (
    (r"(encoder|decoder)\.model\.(.*)\.conv\.conv\.(.*)", r"\1.layers.\2.conv.\3"),
    (r"(encoder|decoder)\.model\.(.*)\.convtr\.convtr\.(.*)", r"\1.layers.\2.conv.\3"),
    (r"(encoder|decoder)\.model\.(.*)", r"\1.layers.\2"),
    (r"quantizer\.vq\.layers\.(\d+)\._codebook\.(.*)", r"quantizer.layers.\1.codebook.\2"),
)
_24_KHZ: dict[str, Any] = {  # what the original's file does not say
    "sampling_rate": 24_000,
    "audio_channels": 1,
    "use_causal_conv": True,
    "norm_type": "weight_norm",
    "normalize": False,
    "chunk_length_s": None,
    "upsampling_ratios": [8, 5, 4, 2],
    "num_filters": 32,
    "num_residual_layers": 1,
    "dilation_growth_rate": 2,
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "compress": 2,
    "num_lstm_layers": 2,
    "hidden_size": 128,
    "codebook_size": 1024,
    "codebook_dim": 128,
    "use_conv_shortcut": True,
    "target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0],
}
_LEARNING = [r"quantizer\.layers\.\d+\.codebook\.(inited|cluster_size|embed_avg)"]  # of training, no part of the codec


def from_original(weights: Weights, *, start: Start = "zero") -> AdaptedCodec:
    """The codec of a state dict of the `encodec` package, which holds no configuration: the 24 kHz model.

    Raises:
        CheckpointError: tensors that are missing, left over, or of other shapes.
    """
    return from_transformers({}, weights.renamed(_ORIGINAL_NAMES), start=start)


def from_transformers(config: dict[str, Any], weights: Weights, *, start: Start = "zero") -> AdaptedCodec:
    """The codec of transformers' `EncodecModel`.

    Raises:
        CheckpointError: a configuration that is not causal, stereo or in chunks, or that the tensors contradict.
    """
    if start not in ("exact", "zero"):
        raise ValueError(f"start must be exact or zero, not {start!r}")
    c = _checked(_24_KHZ | {key: value for key, value in config.items() if key in _24_KHZ}, weights.where)
    frame_size = math.prod(c["upsampling_ratios"])
    frame_rate = math.ceil(c["sampling_rate"] / frame_size)
    bits = math.log2(c["codebook_size"])
    stages = max(1, int(1000 * c["target_bandwidths"][-1] // (frame_rate * bits)))
    shape = (c["codebook_size"], c["codebook_dim"])
    books = torch.stack([weights.take(f"quantizer.layers.{i}.codebook.embed", *shape) for i in range(stages)])
    kind = MirroredConv if start == "exact" else CausalConv
    encoder, decoder = EncodecEncoder(c, weights, kind), EncodecDecoder(c, weights, kind)
    sizes = (c["sampling_rate"], frame_size, c["hidden_size"], c["codebook_size"], stages)
    codec = AdaptedCodec(
        "encodec",
        Contract(*sizes, encoder_start=_start_frames(encoder, frame_size), decoder_start=_start_frames(decoder, 1)),
        encoder,
        EuclideanQuantizer(books),
        decoder,
        {key: c[key] for key in ("num_filters", "upsampling_ratios", "num_lstm_layers")},
    )
    weights.finish(_LEARNING)
    return codec


class EncodecEncoder(Causal):
    """audio `[B, 1, frame_size * T]` to latents `[B, T, D]`."""

    def __init__(self, c: dict[str, Any], weights: Weights, kind: Kind) -> None:
        super().__init__()
        self.chain = seanet_encoder(c, weights, kind)
        self.state_size = self.chain.state_size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`."""
        latents, state = self.chain(x.unsqueeze(2), state)
        return latents.squeeze(2).transpose(1, 2), state


class EncodecDecoder(Causal):
    """latents `[B, T, D]` to audio `[B, 1, frame_size * T]`."""

    def __init__(self, c: dict[str, Any], weights: Weights, kind: Kind) -> None:
        super().__init__()
        self.chain = seanet_decoder(c, weights, kind)
        self.state_size = self.chain.state_size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`."""
        audio, state = self.chain(x.transpose(1, 2).unsqueeze(2), state)
        return audio.squeeze(2), state


def _start_frames(network: Causal, columns: int) -> int:
    """Least frames of a first call in which every mirrored layer sees all that it mirrors; `columns` a frame go in."""
    least = 1
    for layer in network.modules():  # in the order in which they run
        if isinstance(layer, CausalUpsample):
            columns *= layer.stride
        if isinstance(layer, MirroredConv) and layer.past:
            least = max(least, -(-(layer.past + 1) // columns))
        if isinstance(layer, CausalConv):
            columns //= layer.conv.stride[1]
    return least


def _checked(c: dict[str, Any], where: str) -> dict[str, Any]:
    """The configuration, if it is one of the kind that is adapted."""
    unlike = {
        "use_causal_conv": True,
        "norm_type": "weight_norm",
        "normalize": False,
        "chunk_length_s": None,
        "audio_channels": 1,
    }
    for key, wanted in unlike.items():
        if c[key] != wanted:
            raise CheckpointError(
                f"{where}: EnCodec with {key} = {c[key]!r} is not adapted yet, only the causal mono model (24 kHz) is"
            )
    counts = [c[key] for key in _24_KHZ if isinstance(_24_KHZ[key], int) and not isinstance(_24_KHZ[key], bool)]
    ratios, rates = c["upsampling_ratios"], c["target_bandwidths"]
    plain = all(type(n) is int and 0 < n <= 1 << 20 for n in counts)
    if not (plain and isinstance(ratios, list) and all(type(r) is int and 1 < r <= 64 for r in ratios) and ratios):
        raise CheckpointError(f"{where}: config.json holds a size that is no whole number in range")
    if not (isinstance(rates, list) and rates and all(isinstance(r, int | float) and 0 < r < 1000 for r in rates)):
        raise CheckpointError(f"{where}: config.json: target_bandwidths must list kbps")
    if c["codebook_dim"] != c["hidden_size"]:
        raise CheckpointError(f"{where}: codebooks of {c['codebook_dim']} dimensions for latents of {c['hidden_size']}")
    return c
