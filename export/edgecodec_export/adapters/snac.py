"""SNAC (Siuzdak et al. 2024, arXiv:2410.14411), of the names of the `snac` package.

    encoder  conv 7 · (3 residual units, Snake, conv 2r / r) for each stride r · attention · conv 7
    decoder  conv 7, conv 1 · attention · (Snake, transposed conv 2r / r, 3 residual units) for each r · Snake ·
             conv 7 · tanh

DAC's parts with depthwise convolutions, and a quantizer whose first stages have fewer codes a second: at 24 kHz a
frame of 2,048 samples is 4 columns of latents, and has 1 + 2 + 4 codes. The original's decoder adds random noise in
each block; here it is left out, so that the same codes are the same sound.

The models of 32 and 44 kHz have attention, in windows of 32 columns that begin with the clip. There a frame is a whole
window: 12,288 samples, and 4 + 8 + 16 + 32 codes. The original fills a clip up to that too. What attention sees and
gives is held back until it makes whole windows: two frames in the encoder, one and some samples in the decoder.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from edgecodec.errors import CheckpointError
from torch import nn

from .adapted import AdaptedCodec, Contract
from .dac import conv, edges_of, snake, snake_units, unit_names, upsample
from .factored import FactoredQuantizer, factored_tables
from .lookahead import Delay, Edges, LookaheadChain, LookaheadDecoder, LookaheadEncoder
from .weights import Weights
from .windowed import HEAD_DIM, WindowedAttention

_DEFAULTS: dict[str, Any] = {  # of the constructor, which config.json may leave out
    "sampling_rate": 44_100,
    "encoder_dim": 64,
    "encoder_rates": [3, 3, 7, 7],
    "latent_dim": None,
    "decoder_dim": 1536,
    "decoder_rates": [7, 7, 3, 3],
    "attn_window_size": 32,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [8, 4, 2, 1],
    "noise": True,
    "depthwise": True,
}
_NOISE = r"decoder\.block\.\d+\.noise\..*"


def from_original(config: dict[str, Any], weights: Weights) -> AdaptedCodec:
    """The codec of a `config.json` and `pytorch_model.bin` of the `snac` package.

    Raises:
        CheckpointError: a configuration that is out of range, or that the tensors contradict.
    """
    c = _checked(_DEFAULTS | config, weights.where)
    weights = weights.renamed(_names(c))
    columns, hop = math.lcm(c["vq_strides"][0], c["attn_window_size"] or 1), math.prod(c["encoder_rates"])
    widths = [columns // stride for stride in c["vq_strides"]]
    encoder = LookaheadEncoder(_encoder(c, weights, columns), columns)
    decoder = LookaheadDecoder(_decoder(c, weights, columns), columns)
    tables = factored_tables(weights, c["latent_dim"], c["codebook_size"], c["codebook_dim"], widths)
    frame_size = columns * hop
    contract = Contract(
        c["sampling_rate"],
        frame_size,
        columns * c["latent_dim"],
        c["codebook_size"],
        len(widths),
        stage_widths=() if columns == 1 else tuple(widths),
        encoder_lookahead=encoder.lookahead,
        decoder_lookahead=decoder.lookahead,
        encoder_start=encoder.lookahead + 1,
        decoder_start=decoder.lookahead // frame_size + 1,
    )
    weights.finish([_NOISE] if c["noise"] else [])
    facts = {key: c[key] for key in ("encoder_dim", "decoder_dim", "encoder_rates", "vq_strides", "attn_window_size")}
    return AdaptedCodec(
        "snac", contract, encoder, FactoredQuantizer(tables), decoder, facts | {"noise_left_out": c["noise"]}
    )


def _names(c: dict[str, Any]) -> list[tuple[str, str]]:
    """Rules from the package's names, which count all layers, to those that `dac` uses."""
    downs, ups, noise, depthwise = len(c["encoder_rates"]), len(c["decoder_rates"]), c["noise"], c["depthwise"]
    attends = c["attn_window_size"] is not None
    before = 1 + depthwise + attends  # layers of the decoder before its blocks
    rules = [
        (r"encoder\.block\.0\.(.*)", r"encoder.conv1.\1"),
        (rf"encoder\.block\.{downs + attends + 1}\.(.*)", r"encoder.conv2.\1"),
        (r"decoder\.model\.0\.(.*)", r"decoder.conv1.\1"),
        (rf"decoder\.model\.{ups + before}\.(.*)", r"decoder.snake1.\1"),
        (rf"decoder\.model\.{ups + before + 1}\.(.*)", r"decoder.conv2.\1"),
    ]
    if depthwise:
        rules.append((r"decoder\.model\.1\.(.*)", r"decoder.pointwise.\1"))
    if attends:
        rules.append((rf"encoder\.block\.{downs + 1}\.(.*)", r"encoder.attention.\1"))
        rules.append((rf"decoder\.model\.{before - 1}\.(.*)", r"decoder.attention.\1"))
    for i in range(downs):
        block, new = rf"encoder\.block\.{i + 1}\.block", f"encoder.block.{i}"
        rules += unit_names(block, new, 0)
        rules += [(rf"{block}\.3\.(.*)", rf"{new}.snake1.\1"), (rf"{block}\.4\.(.*)", rf"{new}.conv1.\1")]
    for i in range(ups):
        block, new = rf"decoder\.model\.{i + before}\.block", f"decoder.block.{i}"
        rules += unit_names(block, new, 2 + noise)
        rules += [(rf"{block}\.0\.(.*)", rf"{new}.snake1.\1"), (rf"{block}\.1\.(.*)", rf"{new}.conv_t1.\1")]
        if noise:
            rules.append((rf"{block}\.2\.(.*)", rf"{new}.noise.\1"))
    return rules


def _encoder(c: dict[str, Any], weights: Weights, columns: int) -> LookaheadChain:
    channels, depthwise = c["encoder_dim"], c["depthwise"]
    layers: list[nn.Module] = [conv(weights, "encoder.conv1", 1, channels, 7, Edges())]
    for i, stride in enumerate(c["encoder_rates"]):
        name = f"encoder.block.{i}"
        layers += snake_units(weights, name, channels, edges_of(layers), groups=channels if depthwise else 1)
        layers.append(snake(weights, f"{name}.snake1", channels))
        down = conv(weights, f"{name}.conv1", channels, 2 * channels, 2 * stride, edges_of(layers), stride=stride)
        layers.append(down)
        channels *= 2
    layers += _attention(c, weights, "encoder.attention", channels, columns, edges_of(layers))
    groups = channels if depthwise else 1
    layers.append(conv(weights, "encoder.conv2", channels, channels, 7, edges_of(layers), groups=groups))
    delay = Delay(channels, columns, edges_of(layers))
    return LookaheadChain([*layers, delay], delay.edges)


def _decoder(c: dict[str, Any], weights: Weights, columns: int) -> LookaheadChain:
    channels, dim, depthwise = c["decoder_dim"], c["latent_dim"], c["depthwise"]
    layers: list[nn.Module] = []
    if depthwise:
        layers.append(conv(weights, "decoder.conv1", dim, dim, 7, Edges(), groups=dim))
        layers.append(conv(weights, "decoder.pointwise", dim, channels, 1, edges_of(layers)))
    else:
        layers.append(conv(weights, "decoder.conv1", dim, channels, 7, Edges()))
    layers += _attention(c, weights, "decoder.attention", channels, columns, edges_of(layers))
    for i, stride in enumerate(c["decoder_rates"]):
        name, half = f"decoder.block.{i}", channels // 2
        layers.append(snake(weights, f"{name}.snake1", channels))
        layers.append(
            upsample(weights, f"{name}.conv_t1", channels, half, stride, edges_of(layers), output_padding=stride % 2)
        )
        layers += snake_units(weights, name, half, edges_of(layers), groups=half if depthwise else 1)
        channels = half
    layers.append(snake(weights, "decoder.snake1", channels))
    layers.append(conv(weights, "decoder.conv2", channels, 1, 7, edges_of(layers)))
    return LookaheadChain([*layers, nn.Tanh()], edges_of(layers))


def _attention(
    c: dict[str, Any], weights: Weights, name: str, channels: int, columns: int, edges: Edges
) -> list[nn.Module]:
    """Windowed attention, if the model has it, after what holds columns back until there are whole frames of them."""
    if c["attn_window_size"] is None:
        return []
    return [Delay(channels, columns, edges), WindowedAttention(channels, c["attn_window_size"], weights, name)]


def _checked(c: dict[str, Any], where: str) -> dict[str, Any]:
    """The configuration, if it is of the kind that is adapted and all its sizes can be built."""
    for key in ("encoder_rates", "decoder_rates", "vq_strides"):
        values, least = c[key], 1 if key == "vq_strides" else 2
        listed = isinstance(values, list | tuple) and 0 < len(values) <= 8
        if not (listed and all(type(n) is int and least <= n <= 64 for n in values)):
            raise CheckpointError(f"{where}: {key} must list 1 to 8 whole numbers from {least} to 64")
    for key in ("sampling_rate", "encoder_dim", "decoder_dim", "codebook_size", "codebook_dim"):
        if type(c[key]) is not int or not 0 < c[key] <= 1 << 20:
            raise CheckpointError(f"{where}: {key} must be a whole number from 1 to {1 << 20}, not {c[key]!r:.60}")
    for key in ("noise", "depthwise"):
        if type(c[key]) is not bool:
            raise CheckpointError(f"{where}: {key} must be true or false, not {c[key]!r:.60}")
    deepest = c["encoder_dim"] << len(c["encoder_rates"])
    if c["latent_dim"] not in (None, deepest):
        raise CheckpointError(f"{where}: latents of {c['latent_dim']!r:.60} dimensions from an encoder of {deepest}")
    if math.prod(c["encoder_rates"]) != math.prod(c["decoder_rates"]):
        raise CheckpointError(f"{where}: encoder_rates and decoder_rates are of other frames")
    window = c["attn_window_size"]
    if window is not None:
        if type(window) is not int or not 0 < window <= 1024:
            raise CheckpointError(f"{where}: attn_window_size must be null or 1 to 1024, not {window!r:.60}")
        for channels in (deepest, c["decoder_dim"]):
            if channels % HEAD_DIM:
                raise CheckpointError(f"{where}: attention over {channels} channels, no multiple of {HEAD_DIM}")
    if c["decoder_dim"] % (1 << len(c["decoder_rates"])):
        raise CheckpointError(f"{where}: decoder_dim cannot be halved {len(c['decoder_rates'])} times")
    strides = c["vq_strides"]
    if strides[-1] != 1 or any(coarse % fine for coarse, fine in pairwise(strides)):
        raise CheckpointError(f"{where}: vq_strides must fall to 1, each a multiple of the next, not {strides!r:.60}")
    return {**c, "latent_dim": deepest}
