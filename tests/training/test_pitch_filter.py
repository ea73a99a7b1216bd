"""The pitch filter: voices lose noise between their harmonics, all else is left alone, and streams equal the whole."""

import dataclasses

import pytest
import torch
from edgecodec.errors import ConfigError
from edgecodec_training.config import ModelConfig, load_config
from edgecodec_training.model import CodecModel
from edgecodec_training.pitch_filter import PitchFilter

RATE, FRAME = 24_000, 320


def added(
    unit: PitchFilter, x: torch.Tensor, state: torch.Tensor | None = None, strength: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the filter adds at one strength, from the start on or after `state`; and the next state."""
    strengths = torch.full((len(x), x.shape[2] // unit.frame_size), strength)
    return unit(x, strengths, torch.zeros(len(x), unit.state_size) if state is None else state)


def filtered(x: torch.Tensor, strength: float = 0.5) -> torch.Tensor:
    return x + added(PitchFilter(FRAME, (60, 368)), x, strength=strength)[0]


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
    unit = PitchFilter(FRAME, (60, 368))
    strengths = torch.rand(2, sound.shape[2] // FRAME, generator=torch.Generator().manual_seed(0))
    whole, _ = unit(sound, strengths, torch.zeros(2, unit.state_size))
    state, parts, frames = torch.zeros(2, unit.state_size), [], [1, 3, 30, strengths.shape[1] - 34]
    for part, own in zip(sound.split([FRAME * n for n in frames], dim=2), strengths.split(frames, dim=1), strict=True):
        out, state = unit(part, own, state)
        parts.append(out)
    assert torch.allclose(torch.cat(parts, dim=2), whole, atol=1e-6)
    assert torch.allclose(unit(sound[1:], strengths[1:], torch.zeros(1, unit.state_size))[0], whole[1:], atol=1e-6)
    late = unit(sound[:, :, FRAME:], strengths[:, 1:], torch.zeros(2, unit.state_size))[0]
    assert not torch.allclose(late, whole[:, :, FRAME:], atol=1e-4)


def test_a_frame_is_filtered_as_strongly_as_is_said() -> None:
    sound = voice(103.7) + low_noise(voice(100.0))
    unit = PitchFilter(FRAME, (60, 368))
    strengths = torch.full((1, sound.shape[2] // FRAME), 0.5)
    strengths[:, 20:30] = 0.0
    changed, _ = unit(sound, strengths, torch.zeros(1, unit.state_size))
    constant, _ = added(unit, sound)
    assert not changed[..., 21 * FRAME : 30 * FRAME].any()
    assert torch.equal(changed[..., : 20 * FRAME], constant[..., : 20 * FRAME])
    assert torch.equal(changed[..., 31 * FRAME :], constant[..., 31 * FRAME :])


def test_short_frames_reach_less_far() -> None:
    short = PitchFilter(160, (60, 368))
    assert (short.longest * 8, short.state_size) == (304, 481)
    sound = voice(180.3) + low_noise(voice(100.0))
    assert power(sound + added(short, sound)[0] - voice(180.3)) < 0.8 * power(low_noise(voice(100.0)))


def test_it_stands_behind_the_decoder_and_learns_how_strong_to_be() -> None:
    config = load_config("edge").model
    plain = dataclasses.replace(config, edge=dataclasses.replace(config.edge, pitch_filter=0.0))
    torch.manual_seed(0)
    model, without = CodecModel(config), CodecModel(plain)
    less = {name: tensor[:-1] if "decoder.head" in name else tensor for name, tensor in model.state_dict().items()}
    without.load_state_dict(less)  # all but what says the strength
    sound = voice(103.7) + low_noise(voice(100.0))
    with torch.no_grad():
        latents = model.encode_latents(sound)
        bare = without.decode_latents(latents)
    behind = model.decode_latents(latents)
    more = behind.detach() - bare
    assert power(more - (filtered(bare, 0.3) - bare)) < 0.3 * power(more)  # whose noise above 1 kHz is none of it
    assert 1e-6 < power(more) < 0.1 * power(bare)
    (behind - bare).square().mean().backward()
    bias = model.decoder.head.bias.grad
    assert bias is not None and bias[-1] > 0


@pytest.mark.parametrize("changes", [{"frame_size": 324}, {"pitch_lags": (7, 368)}, {"pitch_lags": (360, 368)}])
def test_frames_and_lags_must_fit(changes: dict[str, object]) -> None:
    frame, lags = changes.get("frame_size", FRAME), changes.get("pitch_lags", (60, 368))
    edge = dataclasses.replace(ModelConfig().edge, pitch_filter=0.3, pitch_lags=lags)
    with pytest.raises(ConfigError, match="a pitch filter needs frames of a multiple of 8 samples"):
        CodecModel(dataclasses.replace(ModelConfig(), frame_size=frame, edge=edge))
