"""The four graphs of an adapted codec, by its contract; adapters register how their own operators are translated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from edgecodec_training.causal import Causal
from onnx import ModelProto

from ..graphs import clean, exported
from .adapted import AdaptedCodec

TRANSLATIONS: dict[Any, Callable[..., Any]] = {}
"""ONNX forms of custom operators: each module that defines one adds it here (`torch.ops.edgecodec.x.default`: f)."""

_EXAMPLE_BATCH, _EXAMPLE_SPARE = 2, 2  # frames beyond the least first call, so that the example is of a steady state


def adapted_graphs(codec: AdaptedCodec) -> dict[str, ModelProto]:
    """`encoder`, `quantizer_encode`, `quantizer_decode` and `decoder`.

    `audio` [B, channels, frame_size * T], `state` [B, S] and, with a lookahead, `last` (int64 scalar) to `latents`
    [B, T', D] and `next_state` [B, S]; the decoder the other way round. B and T are dynamic; T is fixed where the
    contract fixes the frames of a call.
    """
    contract = codec.contract
    frames = contract.call_frames or max(contract.encoder_start, contract.decoder_start) + _EXAMPLE_SPARE
    frames += contract.encoder_lookahead + -(-contract.decoder_lookahead // contract.frame_size)
    batch = torch.export.Dim("B")
    many: Any = torch.export.Dim("T")
    if contract.call_frames:
        frames, many = contract.call_frames, torch.export.Dim.STATIC
    audio = torch.zeros(_EXAMPLE_BATCH, contract.channels, frames * contract.frame_size)
    samples = many if contract.call_frames else contract.frame_size * many
    encoder = exported(
        codec.encoder,
        [audio, *_others(codec.encoder, contract.encoder_lookahead)],
        ("audio", "latents"),
        {0: batch, 2: samples},
        TRANSLATIONS,
    )
    latents = torch.zeros(_EXAMPLE_BATCH, frames, contract.latent_dim)
    decoder = exported(
        codec.decoder,
        [latents, *_others(codec.decoder, contract.decoder_lookahead)],
        ("latents", "audio"),
        {0: batch, 1: many},
        TRANSLATIONS,
    )
    heard = f"{contract.frame_size}*T" if contract.decoder_lookahead == 0 else "samples"
    coded = "T" if contract.encoder_lookahead == 0 else "frames"
    if contract.call_frames:
        coded, heard = str(frames), str(frames * contract.frame_size)
    return {
        "encoder": clean(encoder, "encoder", ["B", _size(coded), contract.latent_dim]),
        **codec.quantizer.graphs(),
        "decoder": clean(decoder, "decoder", ["B", contract.channels, _size(heard)]),
    }


def _others(module: Causal, lookahead: int) -> list[torch.Tensor]:
    """Example of the inputs after the first one."""
    state = torch.zeros(_EXAMPLE_BATCH, module.state_size)
    return [state, torch.zeros((), dtype=torch.int64)] if lookahead else [state]


def _size(name: str) -> int | str:
    return int(name) if name.isdigit() else name
