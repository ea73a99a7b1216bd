"""Losses: nothing to lose on equal signals, finite gradients also on silence, and a floor under the log."""

from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
import torch
from edgecodec.evaluation.measures import mel_filters, pesq_wb
from edgecodec_training.config import Config
from edgecodec_training.disturbance import Disturbance
from edgecodec_training.frame_locking import frame_locking
from edgecodec_training.losses import TERMS, LossConfig, ReconstructionLoss, Spectrum

CLIP = Path(__file__).parents[1] / "audio" / "speech_ro.flac"


def test_every_term_has_a_weight_and_every_weight_a_term() -> None:
    weights = {name: float(2**i) for i, name in enumerate(TERMS)}
    audio, decoded = (0.1 * torch.randn(2, 2, 1, 9600)).unbind()
    unit = ReconstructionLoss(LossConfig(**dict.fromkeys(TERMS, 1.0)), 24_000, 320)(audio, decoded)
    weighted = ReconstructionLoss(LossConfig(**weights), 24_000, 320)(audio, decoded)
    assert weighted == {name: weights[name] * unit[name] for name in unit}
    assert set(weighted) == set(LossConfig().weights) == set(TERMS)
    assert Config().shares == LossConfig().weights | {"adversarial": 1.0, "features": 2.0}


def test_equal_signals_cost_nothing() -> None:
    loss = ReconstructionLoss(LossConfig(), 24_000, 320)
    audio = 0.1 * torch.randn(2, 1, 9600)
    assert all(float(term) == 0 for term in loss(audio, audio).values())


@pytest.mark.parametrize("level", [0.0, 1e-6, 0.1])
def test_gradients_are_finite(level: float) -> None:
    loss = ReconstructionLoss(LossConfig(), 24_000, 320)
    decoded = (level * torch.randn(2, 1, 9600)).requires_grad_()
    torch.stack(list(loss(0.1 * torch.randn(2, 1, 9600), decoded).values())).sum().backward()
    assert decoded.grad is not None and torch.isfinite(decoded.grad).all() and decoded.grad.abs().sum() > 0


def test_more_error_costs_more() -> None:
    torch.manual_seed(0)
    loss = ReconstructionLoss(LossConfig(), 24_000, 320)
    audio = 0.1 * torch.sin(torch.arange(9600) * 0.2)[None, None]
    noise = torch.randn_like(audio)
    costs = [loss(audio, audio + level * noise) for level in (0.001, 0.01, 0.1)]
    for name in ("waveform", "stft", "mel"):
        assert costs[0][name] < costs[1][name] < costs[2][name]


def test_sounds_below_the_floor_hardly_count() -> None:
    loss = ReconstructionLoss(LossConfig(), 24_000, 320)
    silence, hiss = torch.zeros(1, 1, 9600), 1e-5 * torch.randn(1, 1, 9600)
    speech_like = 1e-2 * torch.randn(1, 1, 9600)
    assert loss(silence, hiss)["mel"] < 0.01 * loss(silence, speech_like)["mel"]


def test_spectrum_scale_and_filters() -> None:
    sine = torch.sin(torch.arange(4096) * 2 * np.pi * 64 / 1024)[None]
    assert float(Spectrum(1024)(sine).abs().max()) == pytest.approx(0.5, rel=1e-3)
    filters = mel_filters(80, 1024, 24_000)
    assert filters.shape == (513, 80)
    assert (filters >= 0).all()


def test_settings_must_fit() -> None:
    with pytest.raises(ValueError, match="of one length"):
        ReconstructionLoss(LossConfig(mel_bands=(10,)), 24_000, 320)


def test_the_disturbance_asks_more_for_what_is_added_than_for_what_is_missing() -> None:
    audio, rate = soundfile.read(CLIP, dtype="float32")
    speech = torch.from_numpy(audio[: 2 * rate])[None]
    noise = 0.02 * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    disturbance = Disturbance(rate)
    assert float(disturbance(speech, speech)) < 0.01
    added, missing = disturbance(speech, speech + noise), disturbance(speech + noise, speech)
    assert float(added) > 1.2 * float(missing) > 0.1


def test_the_disturbance_ranks_bitrates_as_pesq_does() -> None:
    audio, rate = soundfile.read(CLIP, dtype="float32")
    codec, disturbance = edgecodec.load("speech"), Disturbance(rate)
    losses, scores = [], []
    for stages in (1, 4, 16):
        decoded = codec.decode(codec.encode(audio, stages=stages), len(audio))[0, 0]
        losses.append(float(disturbance(torch.from_numpy(audio)[None], torch.from_numpy(decoded)[None])))
        scores.append(pesq_wb(audio, decoded, rate))
    assert losses == sorted(losses, reverse=True) and scores == sorted(scores)


def test_the_disturbance_has_finite_gradients_and_a_weight() -> None:
    loss = ReconstructionLoss(LossConfig(disturbance=0.25), 24_000, 320)
    speech, silence = 0.1 * torch.randn(2, 1, 9600), torch.zeros(2, 1, 9600)
    for target, heard in ((speech, True), (silence, False)):  # in silence each frame costs the most there is
        decoded = (0.1 * torch.randn(2, 1, 9600)).requires_grad_()
        loss(target, decoded)["disturbance"].backward()
        assert decoded.grad is not None and torch.isfinite(decoded.grad).all()
        assert bool(decoded.grad.any()) == heard
    assert "disturbance" not in ReconstructionLoss(LossConfig(), 24_000, 320)(speech, speech)


def test_frames_that_are_alike_are_locked_and_speech_is_not() -> None:
    audio, rate = soundfile.read(CLIP, dtype="float32")
    speech = torch.from_numpy(audio[: 4 * rate])[None]
    frames = speech.shape[1] // 320
    one = torch.randn(1, 320, generator=torch.Generator().manual_seed(0))
    loudness = 10 ** torch.linspace(-2, 0, frames).repeat_interleave(320)[None]
    assert float(frame_locking(loudness * one.tile(frames), 320)) > 0.95  # however loud each frame is
    assert float(frame_locking(speech, 320)) < 4 / frames
    assert float(frame_locking(torch.zeros(2, 640), 320)) == 0
    silence = torch.zeros(1, 1, 3200, requires_grad=True)
    ReconstructionLoss(LossConfig(locking=1.0), 24_000, 320)(silence.detach(), silence)["locking"].backward()
    assert silence.grad is not None and torch.isfinite(silence.grad).all()
