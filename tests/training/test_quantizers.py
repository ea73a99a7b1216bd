"""How quantizers learn. Their inference form is checked against exported graphs and an oracle in tests/export."""

import itertools

import pytest
import torch
from edgecodec_training.codebook_learning import Codebook
from edgecodec_training.quantizer import Quantizer, QuantizerConfig
from edgecodec_training.quantizers import build_quantizer

KINDS = {
    "rvq, ema": QuantizerConfig(codebook_size=16, max_stages=4, dropout_stages=(1, 4)),
    "rvq, ema, one path": QuantizerConfig(codebook_size=16, max_stages=4, dropout_stages=(1, 4), paths=()),
    "rvq, gradient": QuantizerConfig(codebook_size=16, max_stages=4, dropout_stages=(1, 4), learning="gradient"),
    "rvq, projected as in DAC": QuantizerConfig(
        codebook_size=16, max_stages=4, dropout_stages=(1, 4), learning="gradient", code_dim=3, normalized=True
    ),
    "rvq, projected, ema": QuantizerConfig(codebook_size=16, max_stages=4, dropout_stages=(1, 4), code_dim=3),
    "vq": QuantizerConfig(kind="vq", codebook_size=16, max_stages=1, dropout_stages=(1,)),
    "pq": QuantizerConfig(kind="pq", codebook_size=16, max_stages=4, dropout_stages=(1, 4)),
    "gumbel": QuantizerConfig(kind="gumbel", codebook_size=16, max_stages=4, dropout_stages=(1, 4)),
}


def fitted(name: str, dim: int = 8) -> Quantizer:
    torch.manual_seed(0)
    quantizer = build_quantizer(KINDS[name], dim)
    quantizer.initialise(torch.randn(600, dim))
    return quantizer


def test_ema_moves_an_entry_by_hand() -> None:
    """c <- 0.99 c + 0.01 mean: entry (1, 0) chosen by (2, 0) and (2, 2) goes to (1.01, 0.01); the other stays."""
    book = Codebook(2, 2, decay=0.99)
    book.vectors.copy_(torch.tensor([[1.0, 0.0], [-9.0, -9.0]]))
    x = torch.tensor([[2.0, 0.0], [2.0, 2.0]])
    codes = book.search(x)
    assert codes.tolist() == [0, 0]
    book.ema_update(x, codes)
    expected = torch.tensor([[0.99 * 1.0 + 0.01 * 2.0, 0.99 * 0.0 + 0.01 * 1.0], [-9.0, -9.0]])
    torch.testing.assert_close(book.vectors, expected, rtol=0, atol=1e-7)


def test_dead_entries_restart_and_come_alive() -> None:
    """An entry that nothing chooses restarts at a vector of the batch, and is chosen from then on."""
    torch.manual_seed(0)
    book = Codebook(4, 2, decay=0.9)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    x = centres.repeat(50, 1) + 0.1 * torch.randn(200, 2)
    book.vectors.copy_(torch.tensor([[5.0, 5.0], [900.0, 900.0], [901.0, 900.0], [902.0, 900.0]]))
    for _ in range(100):
        book.ema_update(x, book.search(x))
    assert len(book.search(x).unique()) == 4
    assert (book.vectors.abs() < 20).all()


def test_kmeans_finds_the_clusters() -> None:
    torch.manual_seed(0)
    centres = 10 * torch.randn(4, 3)
    x = centres.repeat_interleave(100, dim=0) + 0.01 * torch.randn(400, 3)
    book = Codebook(16, 3)
    book.fit(x)
    assert (x - book.vectors[book.search(x)]).square().sum(1).mean() < 1e-2


@pytest.mark.parametrize("name", KINDS)
def test_forward_and_encode_choose_the_same_codes(name: str) -> None:
    quantizer = fitted(name).eval()
    latents = torch.randn(3, 7, 8)
    most = quantizer.max_stages
    out = quantizer(latents, torch.full((3, 7), most))
    assert out.codes.shape == (3, most, 7)
    for n in range(1, most + 1):
        codes = quantizer.encode(latents, n)
        trained = quantizer(latents, torch.full((3, 7), n))
        assert torch.equal(codes, trained.codes[:, :n])
        torch.testing.assert_close(trained.quantized, quantizer.decode(codes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "vq"])
def test_every_stage_lowers_the_distortion(name: str) -> None:
    quantizer = fitted(name).eval()
    latents = torch.randn(4, 100, 8)
    left = [1.0, *quantizer(latents, torch.full((4, 100), 4)).distortion.tolist()]
    assert all(after < before for before, after in itertools.pairwise(left))
    measured = (latents - quantizer.decode(quantizer.encode(latents, 4))).square().mean() / latents.square().mean()
    assert left[-1] == pytest.approx(float(measured), rel=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_has_finite_gradients_everywhere(name: str) -> None:
    quantizer = fitted(name).train()
    latents = torch.randn(2, 20, 8, requires_grad=True)
    out = quantizer(latents, torch.full((2, 20), quantizer.max_stages))
    (out.quantized.square().sum() + sum(out.losses.values())).backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0
    for parameter_name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), parameter_name
    quantizer.update()


def searching(*paths: int, entries: int = 4, stages: int = 3) -> Quantizer:
    """An RVQ of random codebooks that get finer."""
    torch.manual_seed(0)
    config = QuantizerConfig(codebook_size=entries, max_stages=stages, dropout_stages=(1,), paths=paths)
    quantizer = build_quantizer(config, 3)
    for stage, book in enumerate(quantizer.codebooks):  # type: ignore[arg-type]
        book.vectors.copy_(0.6**stage * torch.randn(entries, 3))
    return quantizer


def errors(quantizer: Quantizer, latents: torch.Tensor, n_stages: int) -> torch.Tensor:
    """Squared error of every frame `[B, T]`."""
    return (quantizer.decode(quantizer.encode(latents, n_stages)) - latents).square().sum(dim=2)


def test_a_search_that_keeps_every_path_finds_the_best_codes() -> None:
    latents = torch.randn(2, 100, 3)
    quantizer = searching(4, 16)
    table = quantizer.tables().table
    every = sum(table[stage][choice] for stage, choice in enumerate(torch.cartesian_prod(*[torch.arange(4)] * 3).T))
    assert every.shape == (64, 3)
    best = (latents[:, :, None] - every).square().sum(dim=3).min(dim=2).values
    torch.testing.assert_close(errors(quantizer, latents, 3), best)
    assert (errors(searching(), latents, 3) - best).max() > 0.1  # the nearest entry of each stage is not enough


def test_more_paths_and_more_stages_come_nearer() -> None:
    latents = torch.randn(4, 200, 3)
    kept = [searching(*paths, entries=16, stages=5) for paths in ((), (2, 2, 2), (3, 3, 3, 2, 2))]
    left = [[float(errors(quantizer, latents, n).mean()) for n in range(1, 6)] for quantizer in kept]
    assert left[0][4] > left[1][4] > left[2][4]
    assert left[0][0] == left[1][0] == left[2][0]  # of one stage there is nothing to choose
    assert all(after < before for before, after in itertools.pairwise(left[2]))


def test_straight_through_passes_the_gradient_unchanged() -> None:
    quantizer = fitted("rvq, ema").train()
    latents = torch.randn(2, 5, 8, requires_grad=True)
    weight = torch.randn(2, 5, 8)
    (quantizer(latents, torch.tensor([[1] * 5, [4] * 5])).quantized * weight).sum().backward()
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, weight)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "vq"])
def test_dropout_hides_stages_per_frame(name: str) -> None:
    quantizer = fitted(name).eval()
    latents = torch.randn(2, 5, 8)
    counts = torch.tensor([[1, 1, 4, 4, 2], [4, 3, 3, 1, 1]])
    out = quantizer(latents, counts)
    for n in range(1, 5):
        codes = quantizer.encode(latents, n)
        assert torch.equal(out.codes.transpose(1, 2)[counts == n][:, :n], codes.transpose(1, 2)[counts == n])
        torch.testing.assert_close(out.quantized[counts == n], quantizer.decode(codes)[counts == n])


@pytest.mark.parametrize("name", KINDS)
def test_learning_lowers_the_distortion(name: str) -> None:
    """From random codebooks, on clustered latents, every way of learning gets better."""
    torch.manual_seed(0)
    quantizer = build_quantizer(KINDS[name], 8).train()
    centres = 2 * torch.randn(12, 8)
    optimizer = torch.optim.Adam(list(quantizer.parameters()) or [torch.zeros(1, requires_grad=True)], lr=0.02)
    errors = []
    for _ in range(100):
        latents = centres[torch.randint(12, (4, 30))] + 0.1 * torch.randn(4, 30, 8)
        out = quantizer(latents, torch.full((4, 30), quantizer.max_stages))
        errors.append(float((out.quantized.detach() - latents).square().mean()))
        loss = (out.quantized - latents).square().mean() + sum(out.losses.values())
        if loss.requires_grad:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        quantizer.update()
    assert sum(errors[-10:]) < 0.5 * sum(errors[:10])


def test_temperature_falls_on_schedule() -> None:
    quantizer = build_quantizer(
        QuantizerConfig(kind="gumbel", max_stages=1, codebook_size=4, dropout_stages=(1,), temperature=(2.0, 0.5, 10)),
        2,
    )
    temperatures = []
    for _ in range(12):
        temperatures.append(quantizer.temperature())  # type: ignore[operator]
        quantizer.update()
    assert temperatures[0] == 2.0
    assert temperatures[5] == pytest.approx(1.0)
    assert temperatures[10] == temperatures[11] == pytest.approx(0.5)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="one stage"):
        QuantizerConfig(kind="vq", max_stages=2, dropout_stages=(1,))
    with pytest.raises(ValueError, match=r"must lie in 1\.\.max_stages"):
        QuantizerConfig(max_stages=4)
    with pytest.raises(ValueError, match="equal slices"):
        build_quantizer(QuantizerConfig(kind="pq", max_stages=3, dropout_stages=(1,)), 8)
    with pytest.raises(ValueError, match=r"n_stages must be in 1\.\.4, got 5"):
        fitted("rvq, ema").encode(torch.zeros(1, 1, 8), 5)


def test_sharp_logits_choose_the_nearest_entry_in_spite_of_the_noise() -> None:
    agreed = {}
    for sharpness in (1.0, 100.0):
        torch.manual_seed(0)
        config = QuantizerConfig(
            kind="gumbel", codebook_size=64, max_stages=1, dropout_stages=(1,), sharpness=sharpness
        )
        quantizer = build_quantizer(config, 8)
        latents = torch.randn(1, 600, 8)
        quantizer.initialise(latents[0])
        sampled = quantizer.train()(latents, torch.ones(1, 600)).codes
        agreed[sharpness] = float((sampled == quantizer.encode(latents, 1)).float().mean())
    assert agreed[1.0] < 0.1 and agreed[100.0] > 0.8
