"""Mimi (Défossez et al. 2024, arXiv:2410.00037, section 3.3), of transformers' or Kyutai's own names.

    encoder  conv 7 · (residual unit, ELU, conv 2r / r) for r = 4, 5, 6, 8 · ELU · conv 3   24 kHz to 25 Hz
             transformer · conv 4 / 2                                                      to 12.5 Hz
    decoder  transposed conv 4 / 2, each channel alone · transformer                       12.5 Hz to 25 Hz
             conv 7 · (ELU, transposed conv 2r / r, residual unit) for r = 8, 6, 5, 4 · ELU · conv 3

All of it is causal, and starts as the original does: zeros before the first sample, but for the last convolution of the
encoder, which repeats its first column. Every call is one frame: a matrix product of several frames rounds otherwise
than that of one, and a code could differ with the cut.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from edgecodec.errors import CheckpointError
from edgecodec_training.causal import Causal
from torch import Tensor, nn

from .adapted import AdaptedCodec, Contract
from .grouped import Group, GroupedQuantizer
from .seanet import seanet_decoder, seanet_encoder
from .start import RepeatedConv
from .transformer import AroundTransformer, Transformer, TransformerSizes
from .weights import Weights

# From Kyutai's names to those that transformers publishes.
_KYUTAI_NAMES = (
    (r"(encoder|decoder)\.model\.(.*)\.(?:conv\.conv|convtr\.convtr)\.(.*)", r"\1.layers.\2.conv.\3"),
    (r"(downsample|upsample)\.(?:conv\.conv\.conv|convtr\.convtr\.convtr)\.(.*)", r"\1.conv.\2"),
    *(
        (rf"((?:en|de)coder_transformer)\.transformer\.(layers\.\d+)\.{theirs}\.?(.*)", rf"\1.\2.{ours}\3")
        for theirs, ours in (
            (r"norm1", "input_layernorm."),
            (r"norm2", "post_attention_layernorm."),
            (r"self_attn\.(?:in_proj_weight|in_projs\.0\.weight)", "self_attn.in_proj_weight"),
            (r"self_attn\.(?:out_proj|out_projs\.0)", "self_attn.o_proj."),
            (r"linear1", "mlp.fc1."),
            (r"linear2", "mlp.fc2."),
            (r"layer_scale_1", "self_attn_layer_scale."),
            (r"layer_scale_2", "mlp_layer_scale."),
        )
    ),
    *(
        (rf"quantizer\.{theirs}\.{part}", rf"quantizer.{ours}_residual_vector_quantizer.{to}")
        for theirs, ours in (("rvq_first", "semantic"), ("rvq_rest", "acoustic"))
        for part, to in (
            (r"vq\.layers\.(\d+)\._codebook\.embedding_sum", r"layers.\1.codebook.embed_sum"),
            (r"vq\.layers\.(\d+)\._codebook\._?(.*)", r"layers.\1.codebook.\2"),
            (r"(.*)", r"\1"),
        )
    ),
)
_NESTED_NAMES = (  # of the modules in later versions of transformers, whose files keep the names of earlier ones
    (r"(encoder|decoder)\.\1(?:_seanet)?\.(layers\..*)", r"\1.\2"),
    (r"(?:encoder|decoder)\.((?:encoder_transformer|decoder_transformer|downsample|upsample)\..*)", r"\1"),
)
_PUBLISHED: dict[str, Any] = {  # of kyutai/mimi; Kyutai's own file does not say it
    "sampling_rate": 24_000,
    "audio_channels": 1,
    "hidden_size": 512,
    "num_filters": 64,
    "num_residual_layers": 1,
    "upsampling_ratios": [8, 6, 5, 4],
    "kernel_size": 7,
    "last_kernel_size": 3,
    "residual_kernel_size": 3,
    "dilation_growth_rate": 2,
    "use_causal_conv": True,
    "pad_mode": "constant",
    "compress": 2,
    "trim_right_ratio": 1.0,
    "use_conv_shortcut": False,
    "codebook_size": 2048,
    "codebook_dim": 256,
    "vector_quantization_hidden_dimension": 256,
    "num_quantizers": 32,
    "num_semantic_quantizers": 1,
    "upsample_groups": 512,
    "num_hidden_layers": 8,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "gelu",
    "norm_eps": 1e-5,
    "sliding_window": 250,
    "attention_bias": False,
}
_ONLY = {  # the values that are adapted
    "audio_channels": 1,
    "use_causal_conv": True,
    "pad_mode": "constant",
    "trim_right_ratio": 1.0,
    "hidden_act": "gelu",
    "attention_bias": False,
}
_PERIOD = 10_000.0  # of the rotary phases, where the configuration does not say it
_LEAST_USAGE = 1e-5  # of a codebook's entry: one that was never chosen is divided by this
_LEARNING = [r"quantizer\..*\.codebook\.initialized"]


def from_original(weights: Weights, config: dict[str, Any] | None = None) -> AdaptedCodec:
    """The codec of Kyutai's own file, which holds no configuration: by default that of `kyutai/mimi`.

    It has queries, keys and values in one tensor, and turns neighbouring dimensions together.

    Raises:
        CheckpointError: tensors that are missing, left over, or of other shapes.
    """
    return from_transformers(config or {}, weights.renamed(_KYUTAI_NAMES))


def from_transformers(config: dict[str, Any], weights: Weights) -> AdaptedCodec:
    """The codec of transformers' `MimiModel`, in the names of its files.

    Raises:
        CheckpointError: a configuration that is not adapted, or that the tensors contradict.
    """
    weights = weights.renamed(_NESTED_NAMES)
    c = _checked(config, weights.where)
    sizes = TransformerSizes(
        hidden=c["hidden_size"],
        heads=c["num_attention_heads"],
        head_dim=c["head_dim"],
        intermediate=c["intermediate_size"],
        layers=c["num_hidden_layers"],
        window=c["sliding_window"],
        step=c["stride"],
        epsilon=c["norm_eps"],
        period=c["period"],
    )
    frame_size = math.prod(c["upsampling_ratios"]) * c["stride"]
    codec = AdaptedCodec(
        "mimi",
        Contract(
            c["sampling_rate"], frame_size, c["hidden_size"], c["codebook_size"], c["num_quantizers"], call_frames=1
        ),
        MimiEncoder(c, sizes, frame_size, weights),
        GroupedQuantizer(
            [
                _group(c, weights, "semantic", c["num_semantic_quantizers"]),
                _group(c, weights, "acoustic", c["num_quantizers"] - c["num_semantic_quantizers"]),
            ]
        ),
        MimiDecoder(c, sizes, weights),
        {key: c[key] for key in ("num_filters", "upsampling_ratios", "num_hidden_layers", "sliding_window")},
    )
    weights.finish(_LEARNING)
    return codec


class MimiEncoder(AroundTransformer):
    """audio `[B, 1, frame_size * T]` to latents `[B, T, D]`."""

    def __init__(self, c: dict[str, Any], sizes: TransformerSizes, frame_size: int, weights: Weights) -> None:
        seanet = seanet_encoder(c, weights)
        down = RepeatedConv(sizes.hidden, sizes.hidden, 2 * sizes.step, stride=sizes.step)
        kernel = weights.kernel("downsample.conv", sizes.hidden, sizes.hidden, 2 * sizes.step)
        down.conv.weight.data = kernel.unsqueeze(2)
        assert down.conv.bias is not None
        down.conv.bias.data.zero_()
        transformer = Transformer(sizes, weights, "encoder_transformer")
        super().__init__(transformer, seanet.state_size + down.state_size, axis=2, call=frame_size)
        self.seanet, self.down = seanet, down

    def _before(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        seanet, down = kept.split([self.seanet.state_size, self.down.state_size], dim=1)
        y, seanet = self.seanet(x.unsqueeze(2), seanet)
        return y.squeeze(2).transpose(1, 2), torch.cat([seanet, down], dim=1)

    def _after(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        seanet, down = kept.split([self.seanet.state_size, self.down.state_size], dim=1)
        latents, down = self.down(x.transpose(1, 2).unsqueeze(2), down)
        return latents.squeeze(2).transpose(1, 2), torch.cat([seanet, down], dim=1)


class MimiDecoder(AroundTransformer):
    """latents `[B, T, D]` to audio `[B, 1, frame_size * T]`."""

    def __init__(self, c: dict[str, Any], sizes: TransformerSizes, weights: Weights) -> None:
        up = ChannelUpsample(weights.kernel("upsample.conv", sizes.hidden, 1, 2 * sizes.step))
        seanet = seanet_decoder(c, weights)
        transformer = Transformer(sizes, weights, "decoder_transformer")
        super().__init__(transformer, up.state_size + seanet.state_size, axis=1, call=1)
        self.up, self.seanet = up, seanet

    def _before(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        up, seanet = kept.split([self.up.state_size, self.seanet.state_size], dim=1)
        y, up = self.up(x, up)
        return y, torch.cat([up, seanet], dim=1)

    def _after(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        up, seanet = kept.split([self.up.state_size, self.seanet.state_size], dim=1)
        audio, seanet = self.seanet(x.transpose(1, 2).unsqueeze(2), seanet)
        return audio.squeeze(2), torch.cat([up, seanet], dim=1)


class ChannelUpsample(Causal):
    """A transposed convolution of each channel alone, kernel 2 * stride: every column is heard in two.

    The state is the column before the first, `[B, C]`.
    """

    def __init__(self, kernel: Tensor) -> None:
        """`kernel` is `[C, 1, 2 * stride]`."""
        super().__init__()
        now, later = kernel.squeeze(1).T.chunk(2)
        self.now, self.later = nn.Parameter(now.contiguous()), nn.Parameter(later.contiguous())  # [stride, C]
        self.state_size = len(kernel)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T, C]` to `[B, T * stride, C]`."""
        before = torch.cat([state.unsqueeze(1), x[:, :-1]], dim=1)
        y = x.unsqueeze(2) * self.now + before.unsqueeze(2) * self.later
        return y.flatten(1, 2), x[:, -1]


def _group(c: dict[str, Any], weights: Weights, kind: str, stages: int) -> Group:
    """Codebooks are published as sums of what was nearest to each entry, and how often something was."""
    prefix = f"quantizer.{kind}_residual_vector_quantizer"
    width, hidden, books = c["codebook_dim"], c["hidden_size"], []
    for i in range(stages):
        usage = weights.take(f"{prefix}.layers.{i}.codebook.cluster_usage", c["codebook_size"])
        total = weights.take(f"{prefix}.layers.{i}.codebook.embed_sum", c["codebook_size"], width)
        books.append(total / usage.clamp(min=_LEAST_USAGE)[:, None])
    inside = weights.take(f"{prefix}.input_proj.weight", width, hidden, 1).squeeze(2).T.contiguous()
    outside = weights.take(f"{prefix}.output_proj.weight", hidden, width, 1).squeeze(2).T.contiguous()
    return Group(inside, torch.stack(books), outside)


def _checked(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The configuration with what it leaves out, if it is one of the kind that is adapted."""
    c = _PUBLISHED | {key: value for key, value in config.items() if key in _PUBLISHED and value is not None}
    for key, wanted in _ONLY.items():
        if c[key] != wanted:
            raise CheckpointError(f"{where}: Mimi with {key} = {c[key]!r} is not adapted, only {wanted!r} is")
    counts = [c[key] for key, usual in _PUBLISHED.items() if type(usual) is int]
    ratios, epsilon = c["upsampling_ratios"], c["norm_eps"]
    plain = all(type(n) is int and 0 < n <= 1 << 20 for n in counts)
    if not (plain and isinstance(ratios, list) and ratios and all(type(r) is int and 1 < r <= 64 for r in ratios)):
        raise CheckpointError(f"{where}: config.json holds a size that is no whole number in range")
    rate = config.get("frame_rate") or c["sampling_rate"] / (2 * math.prod(ratios))  # not all versions write it
    if not all(isinstance(n, float | int) and 0 < n < math.inf for n in (rate, epsilon)):
        raise CheckpointError(f"{where}: config.json: frame_rate and norm_eps must be positive numbers")
    if config.get("head_dim") is None:
        c["head_dim"] = c["hidden_size"] // c["num_attention_heads"]
    stride = c["sampling_rate"] / (math.prod(ratios) * rate)
    agrees = {
        "num_key_value_heads": c["num_attention_heads"],
        "upsample_groups": c["hidden_size"],
        "vector_quantization_hidden_dimension": c["codebook_dim"],
    }
    for key, wanted in agrees.items():
        if c[key] != wanted:
            raise CheckpointError(f"{where}: Mimi with {key} = {c[key]} is not adapted, only {wanted} is here")
    if c["codebook_dim"] == c["hidden_size"]:
        raise CheckpointError(f"{where}: Mimi without projections around its codebooks is not adapted")
    if not (stride.is_integer() and 2 <= stride <= 64 and stride < c["sliding_window"]) or c["head_dim"] % 2:
        raise CheckpointError(
            f"{where}: {rate} frames a second of {math.prod(ratios)} samples each do not fit {c['sampling_rate']} Hz, "
            f"a window of {c['sliding_window']} and heads of {c['head_dim']} dimensions"
        )
    if c["num_semantic_quantizers"] >= c["num_quantizers"]:
        raise CheckpointError(f"{where}: {c['num_semantic_quantizers']} semantic of {c['num_quantizers']} quantizers")
    return c | {"stride": int(stride), "period": _period(config, where)}


def _period(config: dict[str, Any], where: str) -> float:
    """Of the rotary phases, which versions of transformers write in two ways."""
    rotary = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", _PERIOD)}
    period = rotary.get("rope_theta", _PERIOD) if isinstance(rotary, dict) else None
    plain = isinstance(rotary, dict) and rotary.get("rope_type", "default") == "default"
    if not plain or config.get("rope_scaling") or not (isinstance(period, float | int) and 1 < period < 1e9):
        raise CheckpointError(f"{where}: Mimi with other rotary phases than the default ones is not adapted")
    return float(period)
