"""The codec: encoder, quantizer and decoder of one configuration, and what an export states of their size and work."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .architectures import ARCHITECTURES
from .causal import Causal
from .codebook_learning import Codebook
from .config import ModelConfig
from .quantizer import Quantized
from .quantizers import build_quantizer


class Decoded(NamedTuple):
    """What one training pass returns."""

    audio: Tensor  # [B, 1, samples], late by `algorithmic_latency`
    quantized: Quantized


class CodecModel(nn.Module):
    """audio -> encoder -> latents -> quantizer -> latents -> decoder -> audio."""

    encoder: Causal
    decoder: Causal

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        architecture = ARCHITECTURES[config.architecture]
        sizes = getattr(config, config.architecture)
        self.encoder = architecture.encoder(sizes, config.frame_size, config.latent_dim)
        self.decoder = architecture.decoder(sizes, config.frame_size, config.latent_dim)
        self.quantizer = build_quantizer(config.quantizer, config.latent_dim)

    @property
    def algorithmic_latency(self) -> int:
        """Samples by which decoded audio is late."""
        return self.encoder.latency + self.decoder.latency

    def encode_latents(self, audio: Tensor) -> Tensor:
        """Latents `[B, T, D]` of whole clips `[B, 1, frame_size * T]`."""
        latents: Tensor = self.encoder(audio, self.encoder.zero_state(len(audio)))[0]
        return latents

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Audio `[B, 1, frame_size * T]` of latents `[B, T, D]`, late by `algorithmic_latency` samples."""
        audio: Tensor = self.decoder(latents, self.decoder.zero_state(len(latents)))[0]
        return audio

    def forward(self, audio: Tensor, n_stages: Tensor) -> Decoded:
        """One training pass over clips `[B, 1, frame_size * T]`, frame t of clip b with `n_stages[b, t]` stages."""
        latents = self.encode_latents(audio)
        with torch.autocast(audio.device.type, enabled=False):
            quantized = self.quantizer(latents.float(), n_stages)
        return Decoded(self.decode_latents(quantized.quantized), quantized)

    @torch.no_grad()
    def reconstruct(self, audio: Tensor, n_stages: int) -> Tensor:
        """Clips `[B, 1, samples]` through the codec at one stage count: same shape, latency removed."""
        samples, latency, hop = audio.shape[2], self.algorithmic_latency, self.config.frame_size
        padded = nn.functional.pad(audio, (0, -(samples + latency) % hop + latency))
        codes = self.quantizer.encode(self.encode_latents(padded), n_stages)
        return self.decode_latents(self.quantizer.decode(codes))[..., latency : latency + samples]


def parameter_count(module: nn.Module) -> int:
    """Learned numbers in a part: parameters, and codebooks, which are buffers where they learn by EMA."""
    books = {book.vectors for book in module.modules() if isinstance(book, Codebook)}
    return sum(tensor.numel() for tensor in {*module.parameters(), *books})


@torch.no_grad()
def macs_per_second(module: Causal, example: Tensor, seconds: float, *others: Tensor) -> int:
    """Multiply-accumulates per second of audio in convolutions and matrix products, counted on one example.

    `others` are inputs after the state.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        module(example, module.zero_state(len(example)), *others)
    return int(counter.get_total_flops() / 2 / seconds)
