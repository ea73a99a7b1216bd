"""What every adapter builds: a codec of other people's weights, in layers with functional state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from edgecodec_training.causal import Causal
from onnx import ModelProto
from torch import Tensor, nn


@dataclass(frozen=True)
class Contract:
    """The shapes and promises of a codec's graphs, as its manifest states them (`runtime/docs/bundle.md`)."""

    sample_rate: int  # Hz
    frame_size: int  # samples per code frame
    latent_dim: int
    codebook_size: int
    max_stages: int
    channels: int = 1
    stage_widths: tuple[int, ...] = ()  # code lines of every stage; none: one each
    side: int = 0  # code lines before those of the first stage
    encoder_lookahead: int = 0  # frames
    decoder_lookahead: int = 0  # samples
    encoder_start: int = 1  # frames
    decoder_start: int = 1  # frames
    call_frames: int = 0


class AdaptedQuantizer(nn.Module):
    """Codes of latents and back, at any stage count, in torch and as graphs."""

    def encode(self, latents: Tensor, n_stages: int) -> Tensor:
        """Latents `[B, T, D]` to codes int64 `[B, lines, T]`."""
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `[B, lines, T]`, of as many lines as some stage count has, to latents `[B, T, D]`."""
        raise NotImplementedError

    def graphs(self) -> Mapping[str, ModelProto]:
        """`quantizer_encode` and `quantizer_decode`, of the numbers that `encode` and `decode` compute with."""
        raise NotImplementedError

    def rounded(self, rounded: Callable[[Tensor], Tensor]) -> AdaptedQuantizer:
        """A copy whose stored matrices went through `rounded`."""
        raise NotImplementedError

    def macs(self) -> int:
        """Multiply-accumulates of one frame's search, all stages."""
        raise NotImplementedError


class AdaptedCodec(nn.Module):
    """Encoder, quantizer and decoder of a published model, in evaluation mode.

    `encoder(audio [B, channels, frame_size * T], state) -> latents [B, T, D], state`; `decoder(latents, state) ->
    audio, state`; with a lookahead, both take `last` (int64 scalar tensor) after the state.
    """

    def __init__(
        self,
        architecture: str,
        contract: Contract,
        encoder: Causal,
        quantizer: AdaptedQuantizer,
        decoder: Causal,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.architecture, self.contract = architecture, contract
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.facts = dict(facts or {})  # for the manifest's `training`: where the weights come from, sizes
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def encode_latents(self, audio: Tensor) -> Tensor:
        """Latents `[B, T, D]` of whole clips `[B, channels, frame_size * T]`."""
        return self._whole(self.encoder, audio, self.contract.encoder_lookahead)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Audio `[B, channels, frame_size * T]` of latents `[B, T, D]`."""
        return self._whole(self.decoder, latents, self.contract.decoder_lookahead)

    def _whole(self, part: Causal, x: Tensor, lookahead: int) -> Tensor:
        y: Tensor = part(x, part.zero_state(len(x)), *((torch.tensor(1),) if lookahead else ()))[0]
        return y
