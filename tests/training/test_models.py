"""The architectures: shapes, streaming, latency, budgets, and where `edge` starts from."""

import math
from typing import get_args

import pytest
import torch
from edgecodec_training.architectures import ARCHITECTURES, Name
from edgecodec_training.config import ModelConfig, from_dict, load_config
from edgecodec_training.lapped_transform import LappedAnalysis, compand
from edgecodec_training.model import CodecModel, macs_per_second, parameter_count

TINY = {
    "edge": {
        "architecture": "edge",
        "frame_size": 40,
        "latent_dim": 12,
        "edge": {"channels": 16, "encoder_blocks": 2, "decoder_blocks": 2, "waveform_bins": 12},
        "quantizer": {"max_stages": 4, "codebook_size": 16, "dropout_stages": [1, 2, 4]},
    },
    "filtered": {
        "architecture": "edge",
        "frame_size": 40,
        "latent_dim": 12,
        "edge": {"channels": 16, "encoder_blocks": 2, "decoder_blocks": 2, "pitch_filter": 0.5, "pitch_lags": [16, 60]},
        "quantizer": {"max_stages": 4, "codebook_size": 16, "dropout_stages": [1, 2, 4]},
    },
    "seanet": {
        "architecture": "seanet",
        "frame_size": 40,
        "latent_dim": 12,
        "seanet": {"channels": 4, "strides": [2, 4, 5]},
        "quantizer": {"max_stages": 4, "codebook_size": 16, "dropout_stages": [1, 2, 4]},
    },
    "hybrid": {
        "architecture": "seanet",
        "frame_size": 40,
        "latent_dim": 12,
        "seanet": {"channels": 4, "strides": [2, 5], "patch": 4, "blocks": 1, "residual_units": 2},
        "quantizer": {"max_stages": 4, "codebook_size": 16, "dropout_stages": [1, 2, 4]},
    },
}


def tiny(name: str, *, shaken: bool = True) -> CodecModel:
    torch.manual_seed(0)
    model = CodecModel(from_dict(ModelConfig, TINY[name]))
    if shaken:
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_every_architecture_has_a_name_and_a_configuration() -> None:
    assert tuple(ARCHITECTURES) == get_args(Name)
    assert all(hasattr(ModelConfig(), name) for name in ARCHITECTURES)
    assert {name: tiny(name).algorithmic_latency for name in TINY} == {
        "edge": 40,
        "filtered": 40,
        "seanet": 0,
        "hybrid": 0,
    }


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_streamed_equals_whole(name: str) -> None:
    model = tiny(name)
    audio = 0.3 * torch.randn(3, 1, 40 * 14)
    latents = model.encode_latents(audio)
    assert latents.shape == (3, 14, 12)
    decoded = model.decode_latents(latents)
    assert decoded.shape == audio.shape
    encoder_state, decoder_state = model.encoder.zero_state(3), model.decoder.zero_state(3)
    parts, sounds = [], []
    for block in audio.split([40 * n for n in (1, 1, 5, 2, 4, 1)], dim=2):
        part, encoder_state = model.encoder(block, encoder_state)
        sound, decoder_state = model.decoder(part, decoder_state)
        parts.append(part)
        sounds.append(sound)
    torch.testing.assert_close(torch.cat(parts, dim=1), latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat(sounds, dim=2), decoded, rtol=1e-4, atol=4e-5)  # RMS 0.4


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_causal_up_to_the_stated_latency(name: str) -> None:
    """A change of the input at sample n changes nothing before n, counted without the latency."""
    model = tiny(name)
    audio = 0.3 * torch.randn(1, 1, 400)
    changed = audio.clone()
    changed[..., 200:] = 0
    a, b = (model.decode_latents(model.encode_latents(x)) for x in (audio, changed))
    torch.testing.assert_close(a[..., :200], b[..., :200])
    assert not torch.allclose(a[..., 200:], b[..., 200:])


def mdct_basis(frame_size: int) -> torch.Tensor:
    """By its definition: windowed cosines `[2 * frame_size, frame_size]`."""
    n = torch.arange(2 * frame_size, dtype=torch.float64)[:, None] + 0.5
    k = torch.arange(frame_size, dtype=torch.float64)[None, :] + 0.5
    wave = torch.cos(math.pi / frame_size * (n + frame_size / 2) * k)
    return (math.sqrt(2 / frame_size) * torch.sin(math.pi * n / (2 * frame_size)) * wave).float()


@torch.no_grad()
def test_edge_begins_as_a_transform_codec() -> None:
    """Before the first step latents are the lowest MDCT bins, companded, and the decoder inverts them and hisses."""
    config = from_dict(ModelConfig, TINY["edge"] | {"latent_dim": 40, "edge": {"channels": 16}})
    model = CodecModel(config).eval()
    audio = 0.3 * torch.randn(1, 1, 40 * 6)
    latents = model.encode_latents(audio)
    frame = torch.cat([audio[0, 0, 40:80], audio[0, 0, 80:120]])
    torch.testing.assert_close(latents[0, 2], compand(frame @ mdct_basis(40)), rtol=1e-4, atol=1e-5)
    decoded = model.decode_latents(latents)
    error = decoded[..., 40:] - audio[..., :-40]
    assert error.std() < 1e-2 * audio.std()  # the noise that it begins with
    model.decoder.head.bias[-32:] = -30.0  # type: ignore[union-attr, operator, index]
    silenced = model.decode_latents(latents)
    torch.testing.assert_close(silenced[..., 40:], audio[..., :-40], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 39, 40, 41, 400])
def test_reconstruct_keeps_the_length(samples: int) -> None:
    for name in TINY:
        assert tiny(name).reconstruct(torch.randn(2, 1, samples), 2).shape == (2, 1, samples)


def test_default_model_keeps_the_budgets() -> None:
    """At most 3 M parameters without codebooks, 150 MMAC/s in the decoder, 350 in all, 30 ms of latency."""
    config = load_config("edge").model
    model = CodecModel(config).requires_grad_(False).eval()
    second = torch.zeros(1, 1, config.sample_rate)
    latents = model.encode_latents(second)
    encoder = macs_per_second(model.encoder, second, 1.0)
    decoder = macs_per_second(model.decoder, latents, 1.0)
    quantizer = model.quantizer.tables().macs() * config.frame_rate
    assert decoder < 150e6
    assert encoder + decoder + quantizer < 350e6
    assert parameter_count(model.encoder) + parameter_count(model.decoder) < 3e6
    latency = config.frame_size + model.algorithmic_latency
    assert latency / config.sample_rate <= 0.030


def test_bitrates_of_the_literature() -> None:
    """24 kHz, stride 320, 1024 entries: 75 frames a second, 80 bits a frame at 8 stages, 6 kbps; 4 stages 3 kbps."""
    config = ModelConfig()
    assert (config.sample_rate, config.frame_size, config.quantizer.codebook_size) == (24_000, 320, 1024)
    assert config.frame_rate == 75
    assert config.bitrate(8) * 1000 / config.frame_rate == 80
    assert config.bitrate(8) == 6.0
    assert config.bitrate(4) == 3.0
    assert config.bitrate(config.quantizer.max_stages) == 12.0


def test_strides_must_make_the_frame() -> None:
    with pytest.raises(ValueError, match="patch x strides = 40, but frame_size is 41"):
        CodecModel(from_dict(ModelConfig, TINY["seanet"] | {"frame_size": 41}))


@torch.no_grad()
def test_the_upper_spectrum_of_edge_is_noise_not_tones() -> None:
    """Raised noise bands over constant low latents: above the waveform bins no MDCT bin keeps its sign."""
    model = tiny("edge", shaken=False)
    decoder = model.decoder
    decoder.head.bias[-decoder.head_sizes[2] :] = 1.0  # type: ignore[union-attr, index, operator]
    latents = torch.randn(1, 200, 12)
    analysis = LappedAnalysis(40)
    mdct, _ = analysis(model.decode_latents(latents), analysis.zero_state(1))
    upper = mdct[0, 0, 5:, 20:]
    assert (upper.mean(dim=0).abs() < 0.3 * upper.std(dim=0)).all()
    assert upper.std(dim=0).max() < 2 * upper.std(dim=0).min()
