"""Discriminators and the balancer: finite gradients, both losses, and that they learn."""

import pytest
import torch
from edgecodec_training.balancer import Balancer
from edgecodec_training.discriminators import DiscriminatorConfig, Discriminators

KINDS = {
    "stft": {"stft_windows": (256, 512)},
    "stft, wide stride": {"stft_windows": (256,), "stride": 2},
    "period": {"stft_windows": (), "periods": (2, 3)},
    "band": {"stft_windows": (), "band_windows": (256, 512)},
    "all, least squares": {"stft_windows": (256,), "periods": (5,), "band_windows": (256,), "loss": "lsgan"},
}


def build(name: str) -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(DiscriminatorConfig(start_step=0, channels=4, **KINDS[name]))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", KINDS)
def test_one_step_of_each_has_finite_gradients(name: str) -> None:
    discriminators = build(name)
    real, fake = 0.1 * torch.randn(2, 1, 4000), (0.1 * torch.randn(2, 1, 4000)).requires_grad_()
    discriminators.own_loss(real, fake).backward()
    assert fake.grad is None
    for parameter_name, parameter in discriminators.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), parameter_name
    losses = discriminators.codec_losses(real, fake)
    assert set(losses) == {"adversarial", "features"}
    torch.stack(list(losses.values())).sum().backward()
    assert fake.grad is not None and torch.isfinite(fake.grad).all() and fake.grad.abs().sum() > 0


@pytest.mark.parametrize("name", KINDS)
def test_equal_audio_has_equal_features(name: str) -> None:
    audio = 0.1 * torch.randn(2, 1, 4000)
    assert float(build(name).codec_losses(audio, audio.clone())["features"].detach()) == 0


@pytest.mark.parametrize("name", ["stft", "period", "band"])
def test_discriminators_learn_to_tell_noise_from_tones(name: str) -> None:
    discriminators = build(name)
    optimizer = torch.optim.AdamW(discriminators.parameters(), lr=1e-2)
    tones = 0.3 * torch.sin(torch.arange(1024)[None, None] * torch.tensor([0.1, 0.37])[:, None, None])
    losses = []
    for _ in range(30):
        loss = discriminators.own_loss(tones, 0.2 * torch.randn(2, 1, 1024))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_the_balancer_gives_each_loss_its_share() -> None:
    """Two losses of scales 1000 : 1 with shares 1 : 3 pull with norms 1/4 and 3/4."""
    decoded = torch.zeros(1, 1, 2, requires_grad=True)
    direction = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    losses = {"loud": (1000 * decoded * direction[0]).sum(), "quiet": (decoded * direction[1]).sum()}
    balancer = Balancer({"loud": 1.0, "quiet": 3.0, "absent": 5.0})
    torch.testing.assert_close(balancer.gradient(losses, decoded), torch.tensor([[[0.25, 0.75]]]))
