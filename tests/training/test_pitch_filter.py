"""The pitch filter: voices lose noise between their harmonics, all else is left alone, and streams equal the whole."""

import dataclasses

import pytest
import torch
from edgecodec.errors import ConfigError
from edgecodec_training.config import ModelConfig, load_config
from edgecodec_training.model import CodecModel
from edgecodec_training.pitch_filter import PitchFilter

RATE, FRAME = 24_000, 320


def filtered(x: torch.Tensor, strength: float = 0.5) -> torch.Tensor:
    unit = PitchFilter(FRAME, strength, (60, 368))
    return x + unit(x, unit.zero_state(len(x)))[0]


def voice(hertz: float, seconds: float = 1.0) -> torch.Tensor:
    """Harmonics up to 1 kHz, all as loud, with phases of their own: [1, 1, samples], RMS 0.1."""
    t = torch.arange(round(seconds * RATE) // FRAME * FRAME) / RATE
    tones = [torch.cos(2 * torch.pi * n * hertz * t + n * n) for n in range(1, int(1000 / hertz) + 1)]
    sound = torch.stack(tones).sum(dim=0)
    return (0.1 * sound / sound.square().mean().sqrt())[None, None]


def low_noise(like: torch.Tensor) -> torch.Tensor:
    """Noise up to 1 kHz, RMS 0.03."""
    spectrum = torch.fft.rfft(torch.randn(like.shape, generator=torch.Generator().manual_seed(0)))
    spectrum[..., like.shape[2] * 1000 // RATE :] = 0
    noise = torch.fft.irfft(spectrum, like.shape[2])
    return 0.03 * noise / noise.square().mean().sqrt()


def power(x: torch.Tensor) -> float:
    return float(x[..., 4 * FRAME :].square().mean())


@pytest.mark.parametrize("hertz", [70.0, 103.7, 180.3, 311.0])
def test_noise_between_harmonics_goes_and_the_voice_stays(hertz: float) -> None:
    clean = voice(hertz)
    noise = low_noise(clean)
    assert power(filtered(clean) - clean) < 0.003 * power(clean)
    assert power(filtered(clean + noise) - clean) < 0.75 * power(noise)


def test_what_has_no_period_is_left_alone() -> None:
    noise = low_noise(voice(100.0))
    assert power(filtered(noise) - noise) < 0.01 * power(noise)
    silence = torch.zeros(2, 1, 4 * FRAME)
    assert torch.equal(filtered(silence), silence)


def test_streamed_equals_whole_and_rows_are_alone() -> None:
    sound = torch.cat([voice(103.7), voice(180.3)]) + low_noise(voice(100.0))
    unit = PitchFilter(FRAME, 0.5, (60, 368))
    whole, _ = unit(sound, unit.zero_state(2))
    state, parts = unit.zero_state(2), []
    for part in sound.split([FRAME, 3 * FRAME, 30 * FRAME, sound.shape[2] - 34 * FRAME], dim=2):
        added, state = unit(part, state)
        parts.append(added)
    assert torch.allclose(torch.cat(parts, dim=2), whole, atol=1e-6)
    assert torch.allclose(unit(sound[1:], unit.zero_state(1))[0], whole[1:], atol=1e-6)
    assert not torch.allclose(unit(sound[:, :, FRAME:], unit.zero_state(2))[0], whole[:, :, FRAME:], atol=1e-4)


def test_short_frames_reach_less_far() -> None:
    short = PitchFilter(160, 0.5, (60, 368))
    assert (short.longest * 8, short.state_size) == (304, 480)
    sound = voice(180.3) + low_noise(voice(100.0))
    added, _ = short(sound, short.zero_state(1))
    assert power(sound + added - voice(180.3)) < 0.8 * power(low_noise(voice(100.0)))


def test_it_stands_behind_the_decoder_but_not_in_training() -> None:
    config = load_config("edge").model
    plain = dataclasses.replace(config, edge=dataclasses.replace(config.edge, pitch_filter=0.0))
    torch.manual_seed(0)
    model = CodecModel(config)
    without = CodecModel(plain)
    without.load_state_dict(model.state_dict())  # it has no weights
    sound = voice(103.7) + low_noise(voice(100.0))
    with torch.no_grad():
        latents = model.eval().encode_latents(sound)
        bare, behind = without.eval().decode_latents(latents), model.decode_latents(latents)
        assert torch.equal(model.train().decode_latents(latents), bare)
    added = behind - bare
    assert power(added - (filtered(bare, 0.3) - bare)) < 0.3 * power(added)  # whose noise above 1 kHz is none of it
    assert 1e-6 < power(added) < 0.1 * power(bare)


@pytest.mark.parametrize("changes", [{"frame_size": 324}, {"pitch_lags": (7, 368)}, {"pitch_lags": (360, 368)}])
def test_frames_and_lags_must_fit(changes: dict[str, object]) -> None:
    frame, lags = changes.get("frame_size", FRAME), changes.get("pitch_lags", (60, 368))
    edge = dataclasses.replace(ModelConfig().edge, pitch_filter=0.3, pitch_lags=lags)
    with pytest.raises(ConfigError, match="a pitch filter needs frames of a multiple of 8 samples"):
        CodecModel(dataclasses.replace(ModelConfig(), frame_size=frame, edge=edge))
