"""DAC (Kumar et al. 2023, arXiv:2306.06546), of transformers' names or those of the descript-audio-codec package.

    encoder  conv 7 · (3 residual units, Snake, conv 2r / r) for each stride r · Snake · conv 3
    decoder  conv 7 · (Snake, transposed conv 2r / r, 3 residual units) for each r, reversed · Snake · conv 7 · tanh

It is not causal: its graphs hold back what they do not know yet. At 44.1 kHz the encoder waits for 8 frames, the
decoder for 4,757 samples: 200 ms. An odd stride leaves the decoded clip short (320 * T - 8 at 24 kHz); the missing
samples are zeros at its end.
"""

from __future__ import annotations

import math
from typing import Any

from edgecodec.errors import CheckpointError
from torch import nn

from .adapted import AdaptedCodec, Contract
from .factored import FactoredQuantizer, factored_tables
from .lookahead import (
    Edges,
    LookaheadChain,
    LookaheadDecoder,
    LookaheadEncoder,
    LookaheadLayer,
    Snake,
    SnakeUnit,
    SymmetricConv,
    SymmetricUpsample,
)
from .weights import Weights

_DEFAULTS: dict[str, Any] = {  # of transformers, whose config.json may leave them out
    "encoder_hidden_size": 64,
    "downsampling_ratios": [2, 4, 8, 8],
    "decoder_hidden_size": 1536,
    "n_codebooks": 9,
    "codebook_size": 1024,
    "codebook_dim": 8,
    "sampling_rate": 16_000,
}
_ORIGINAL_KEYS = {  # of the original's constructor, with its defaults
    "encoder_dim": ("encoder_hidden_size", 64),
    "encoder_rates": ("downsampling_ratios", [2, 4, 8, 8]),
    "decoder_dim": ("decoder_hidden_size", 1536),
    "n_codebooks": ("n_codebooks", 9),
    "codebook_size": ("codebook_size", 1024),
    "codebook_dim": ("codebook_dim", 8),
    "sample_rate": ("sampling_rate", 44_100),
    "latent_dim": ("hidden_size", None),
    "decoder_rates": ("upsampling_ratios", [8, 8, 4, 2]),
}
DILATIONS = (1, 3, 9)


def from_original(kwargs: dict[str, Any], weights: Weights) -> AdaptedCodec:
    """The codec of a checkpoint of `descript-audio-codec`: its `metadata.kwargs` and its `state_dict`.

    Raises:
        CheckpointError: tensors that are missing, left over, or of other shapes.
    """
    config = {ours: kwargs.get(key, default) for key, (ours, default) in _ORIGINAL_KEYS.items()}
    ratios = config["downsampling_ratios"]
    rules = original_names(len(ratios)) if isinstance(ratios, list | tuple) else []
    return from_transformers(config, weights.renamed(rules))


def original_names(blocks: int) -> list[tuple[str, str]]:
    """Rules from the original's names, which count all layers, to those of transformers."""
    rules = [
        (r"encoder\.block\.0\.(.*)", r"encoder.conv1.\1"),
        (rf"encoder\.block\.{blocks + 1}\.(.*)", r"encoder.snake1.\1"),
        (rf"encoder\.block\.{blocks + 2}\.(.*)", r"encoder.conv2.\1"),
        (r"decoder\.model\.0\.(.*)", r"decoder.conv1.\1"),
        (rf"decoder\.model\.{blocks + 1}\.(.*)", r"decoder.snake1.\1"),
        (rf"decoder\.model\.{blocks + 2}\.(.*)", r"decoder.conv2.\1"),
    ]
    for i in range(blocks):
        encoder, decoder = rf"encoder\.block\.{i + 1}\.block", rf"decoder\.model\.{i + 1}\.block"
        rules += unit_names(encoder, f"encoder.block.{i}", 0) + unit_names(decoder, f"decoder.block.{i}", 2)
        rules += [
            (rf"{encoder}\.3\.(.*)", rf"encoder.block.{i}.snake1.\1"),
            (rf"{encoder}\.4\.(.*)", rf"encoder.block.{i}.conv1.\1"),
            (rf"{decoder}\.0\.(.*)", rf"decoder.block.{i}.snake1.\1"),
            (rf"{decoder}\.1\.(.*)", rf"decoder.block.{i}.conv_t1.\1"),
        ]
    return rules


def unit_names(block: str, new: str, begin: int) -> list[tuple[str, str]]:
    """Rules for the residual units of one block, which are its layers from `begin` on."""
    return [
        (rf"{block}\.{begin + unit}\.block\.{j}\.(.*)", rf"{new}.res_unit{unit + 1}.{part}.\1")
        for j, part in enumerate(("snake1", "conv1", "snake2", "conv2"))
        for unit in range(len(DILATIONS))
    ]


def from_transformers(config: dict[str, Any], weights: Weights) -> AdaptedCodec:
    """The codec of transformers' `DacModel`.

    Raises:
        CheckpointError: a configuration that is out of range, or that the tensors contradict.
    """
    c = _checked(_DEFAULTS | config, weights.where)
    frame_size, dim = math.prod(c["downsampling_ratios"]), c["hidden_size"]
    stages, size = c["n_codebooks"], c["codebook_size"]
    encoder, decoder = LookaheadEncoder(_encoder(c, weights)), LookaheadDecoder(_decoder(c, weights))
    quantizer = FactoredQuantizer(factored_tables(weights, dim, size, c["codebook_dim"], [1] * stages))
    contract = Contract(
        c["sampling_rate"],
        frame_size,
        dim,
        size,
        stages,
        encoder_lookahead=encoder.lookahead,
        decoder_lookahead=decoder.lookahead,
        encoder_start=encoder.lookahead + 1,
        decoder_start=decoder.lookahead // frame_size + 1,
    )
    weights.finish()
    facts = {key: c[key] for key in ("encoder_hidden_size", "decoder_hidden_size", "downsampling_ratios")}
    return AdaptedCodec("dac", contract, encoder, quantizer, decoder, facts)


def _encoder(c: dict[str, Any], weights: Weights) -> LookaheadChain:
    channels = c["encoder_hidden_size"]
    layers: list[nn.Module] = [conv(weights, "encoder.conv1", 1, channels, 7, Edges())]
    for i, stride in enumerate(c["downsampling_ratios"]):
        name = f"encoder.block.{i}"
        layers += snake_units(weights, name, channels, edges_of(layers))
        layers.append(snake(weights, f"{name}.snake1", channels))
        layers.append(
            conv(weights, f"{name}.conv1", channels, 2 * channels, 2 * stride, edges_of(layers), stride=stride)
        )
        channels *= 2
    layers.append(snake(weights, "encoder.snake1", channels))
    layers.append(conv(weights, "encoder.conv2", channels, c["hidden_size"], 3, edges_of(layers)))
    return LookaheadChain(layers, edges_of(layers))


def _decoder(c: dict[str, Any], weights: Weights) -> LookaheadChain:
    channels = c["decoder_hidden_size"]
    layers: list[nn.Module] = [conv(weights, "decoder.conv1", c["hidden_size"], channels, 7, Edges())]
    for i, stride in enumerate(reversed(c["downsampling_ratios"])):
        name, half = f"decoder.block.{i}", channels // 2
        layers.append(snake(weights, f"{name}.snake1", channels))
        layers.append(upsample(weights, f"{name}.conv_t1", channels, half, stride, edges_of(layers)))
        layers += snake_units(weights, name, half, edges_of(layers))
        channels = half
    layers.append(snake(weights, "decoder.snake1", channels))
    layers.append(conv(weights, "decoder.conv2", channels, 1, 7, edges_of(layers)))
    return LookaheadChain([*layers, nn.Tanh()], edges_of(layers))


def snake_units(weights: Weights, name: str, channels: int, edges: Edges, *, groups: int = 1) -> list[SnakeUnit]:
    """The residual units of a block, of dilations 1, 3 and 9 and kernel 7."""
    units = []
    for i, dilation in enumerate(DILATIONS, start=1):
        unit = f"{name}.res_unit{i}"
        wide = conv(weights, f"{unit}.conv1", channels, channels, 7, edges, dilation=dilation, groups=groups)
        pointwise = conv(weights, f"{unit}.conv2", channels, channels, 1, Edges()).conv
        first, second = (snake(weights, f"{unit}.snake{j}", channels) for j in (1, 2))
        units.append(SnakeUnit(first, wide, second, pointwise))
        edges = units[-1].edges
    return units


def upsample(
    weights: Weights, name: str, channels: int, out: int, stride: int, edges: Edges, **options: int
) -> SymmetricUpsample:
    """A transposed convolution with its weights."""
    layer = SymmetricUpsample(channels, out, stride, edges, **options)
    layer.load(weights.kernel(name, channels, out, 2 * stride), weights.take(f"{name}.bias", out))
    return layer


def conv(
    weights: Weights, name: str, channels: int, out: int, kernel: int, edges: Edges, **options: int
) -> SymmetricConv:
    """A convolution with its weights."""
    layer = SymmetricConv(channels, out, kernel, edges, **options)
    assert layer.conv.bias is not None
    inside = channels // options.get("groups", 1)
    layer.conv.weight.data = weights.kernel(name, out, inside, kernel).unsqueeze(2)
    layer.conv.bias.data = weights.take(f"{name}.bias", out)
    return layer


def snake(weights: Weights, name: str, channels: int) -> Snake:
    """A Snake with its weights."""
    return Snake(weights.take(f"{name}.alpha", 1, channels, 1)[0, :, 0])


def edges_of(layers: list[nn.Module]) -> Edges:
    """Of what comes out of the last layer that has any."""
    return [layer.edges for layer in layers if isinstance(layer, LookaheadLayer)][-1]


def _checked(c: dict[str, Any], where: str) -> dict[str, Any]:
    """The configuration, if all its sizes can be built."""
    ratios = c["downsampling_ratios"]
    if not (isinstance(ratios, list | tuple) and ratios and all(type(r) is int and 1 < r <= 64 for r in ratios)):
        raise CheckpointError(f"{where}: downsampling_ratios must list strides from 2 to 64, not {ratios!r:.60}")
    if len(ratios) > 8:
        raise CheckpointError(f"{where}: {len(ratios)} strides are more than 8")
    c = {**c, "downsampling_ratios": list(ratios)}
    dims = c["codebook_dim"]
    if isinstance(dims, list | tuple) and len(set(map(str, dims))) == 1:
        c["codebook_dim"] = dims[0]
    for key in (key for key, value in _DEFAULTS.items() if isinstance(value, int)):
        if type(c[key]) is not int or not 0 < c[key] <= 1 << 20:
            raise CheckpointError(f"{where}: {key} must be a whole number from 1 to {1 << 20}, not {c[key]!r:.60}")
    deepest = c["encoder_hidden_size"] << len(ratios)
    if c.get("hidden_size") is None:
        c["hidden_size"] = deepest
    if type(c["hidden_size"]) is not int or not 0 < c["hidden_size"] <= 1 << 16:
        raise CheckpointError(f"{where}: latents must have 1 to {1 << 16} dimensions, not {c['hidden_size']!r:.60}")
    upsampling = c.get("upsampling_ratios")
    if upsampling is not None and (not isinstance(upsampling, list | tuple) or list(upsampling) != list(ratios)[::-1]):
        raise CheckpointError(f"{where}: a decoder of strides {upsampling!r:.60} for an encoder of {list(ratios)}")
    if c["decoder_hidden_size"] % (1 << len(ratios)):
        raise CheckpointError(f"{where}: decoder_hidden_size cannot be halved {len(ratios)} times")
    return c
