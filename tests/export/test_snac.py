"""SNAC, from the original's names to graphs, against the `snac` package in torch and in onnxruntime.

The original's noise is switched off in the oracle: its blocks add nothing where their gain is zero. As for DAC, the
codebooks are drawn from what earlier stages left, and the fall of the residual is asserted.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from edgecodec.errors import CheckpointError
from edgecodec_export.adapters import snac as adapter
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.weights import Weights
from edgecodec_export.audio import synthetic_voice
from streamed import Run, Streamed, apart

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of torch.jit, which it uses
    snac = pytest.importorskip("snac")

CONFIG: dict[str, Any] = {
    "sampling_rate": 24_000,
    "encoder_dim": 4,
    "encoder_rates": [2, 3, 4],
    "latent_dim": None,
    "decoder_dim": 32,
    "decoder_rates": [4, 3, 2],
    "attn_window_size": None,
    "codebook_size": 64,
    "codebook_dim": 4,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
FRAME, COLUMNS, STAGES = 96, 4, 3
WIDTHS = [1, 2, 4]


def voice(frames: int, size: int = FRAME) -> torch.Tensor:
    return torch.from_numpy(synthetic_voice((frames + 1) * size / 24_000, 24_000)[: frames * size])[None, None]


def small_model(**changes: Any) -> Any:
    """A SNAC whose latents have size, whose codebooks fit what they are searched for, and whose noise is silent."""
    torch.manual_seed(0)
    config = CONFIG | changes
    model = snac.SNAC(**config).eval().requires_grad_(False)
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind == "Snake1d":
            module.alpha.copy_(0.5 + torch.rand_like(module.alpha))
        elif "Conv" in kind and "quantizer" not in name:
            gain = module.parametrizations.weight.original0
            gain.copy_(torch.full_like(gain, 0.0 if name.endswith(".linear") else 0.9))  # linear: the noise's
    clip = voice(304)  # whole windows too
    last = model.encoder.block[-1]
    # Columns that are alike, as neighbours in speech are: else the mean of four tells nothing about them.
    last.parametrizations.weight.original1.abs_()
    last.parametrizations.weight.original0 /= model.encoder(clip).std(2).T[..., None]
    last.bias -= model.encoder(clip).mean((0, 2))
    rest = model.encoder(clip)
    for layer in model.quantizer.quantizers:
        means = torch.nn.functional.avg_pool1d(rest, layer.stride, layer.stride)
        left = means[0] - means[0].mean(1, keepdim=True)
        axes = torch.linalg.svd(left, full_matrices=False)[0][:, : config["codebook_dim"]]
        set_weight(layer.in_proj, axes.T[..., None])
        set_weight(layer.out_proj, 0.9 * axes[..., None])
        layer.out_proj.bias.copy_(0.01 * torch.randn(len(axes)))
        drawn = layer.in_proj(means)[0].T
        layer.codebook.weight.copy_(drawn[torch.randperm(len(drawn))[: config["codebook_size"]]])
        rest = rest - layer(rest)[0]
    before_tanh = model.decoder.model[:-1](model.encoder(clip))  # which hides differences where it saturates
    model.decoder.model[-2].parametrizations.weight.original0.mul_(0.3 / before_tanh.std())
    return model


def set_weight(layer: Any, weight: torch.Tensor) -> None:
    layer.parametrizations.weight.original0.copy_(weight.norm(dim=(1, 2), keepdim=True))
    layer.parametrizations.weight.original1.copy_(weight)


def adapted(model: Any, **changes: Any) -> AdaptedCodec:
    return adapter.from_original(CONFIG | changes, Weights(model.state_dict(), "file"))


@pytest.fixture(scope="module")
def theirs() -> Any:
    return small_model()


@pytest.fixture(scope="module")
def ours(theirs: Any) -> AdaptedCodec:
    return adapted(theirs)


@pytest.fixture(scope="module")
def case(ours: AdaptedCodec) -> Streamed:
    return Streamed(ours)


@pytest.fixture(scope="module")
def graphs(case: Streamed) -> dict[str, Run]:
    return case.graphs


def as_frames(columns: torch.Tensor, of_frame: int = COLUMNS) -> torch.Tensor:
    """[B, D, columns * T] as latents [B, T, columns * D]."""
    return columns.transpose(1, 2).reshape(len(columns), -1, of_frame * columns.shape[1])


def as_lines(codes: list[torch.Tensor], widths: Sequence[int] = WIDTHS) -> torch.Tensor:
    """Their codes, [B, width * T] a stage, as lines [B, lines, T]."""
    return torch.cat([c.reshape(len(c), -1, w).transpose(1, 2) for c, w in zip(codes, widths, strict=False)], dim=1)


def test_contract(ours: AdaptedCodec) -> None:
    c = ours.contract
    assert (c.frame_size, c.latent_dim, c.max_stages, c.stage_widths) == (FRAME, COLUMNS * 32, STAGES, (1, 2, 4))
    assert (c.encoder_start, c.decoder_start) == (c.encoder_lookahead + 1, c.decoder_lookahead // FRAME + 1)
    assert ours.facts["noise_left_out"] is True


def test_residual_falls_at_every_stage(ours: AdaptedCodec) -> None:
    latents = ours.encode_latents(voice(200))
    energy = [float(latents.square().mean())]
    for n in range(1, STAGES + 1):
        energy.append(float((latents - ours.quantizer.decode(ours.quantizer.encode(latents, n))).square().mean()))
    falls = [after / before for before, after in itertools.pairwise(energy)]
    assert max(falls) < 0.95, falls


@pytest.mark.parametrize("frames", [1, 2, -1, 0, 60])
def test_latents_and_audio_are_those_of_the_original(
    theirs: Any, ours: AdaptedCodec, case: Streamed, frames: int
) -> None:
    for part, start in (("encoder", ours.contract.encoder_start), ("decoder", ours.contract.decoder_start)):
        clip = voice(frames if frames > 0 else start + frames)
        columns = theirs.encoder(clip)
        latents = as_frames(columns)
        if part == "encoder":
            assert apart(latents, ours.encode_latents(clip)) < 1e-4
            assert apart(latents, case.stream(part, clip, [])) < 1e-4
        else:
            expected = theirs.decoder(columns)
            assert expected.shape == clip.shape
            assert apart(expected, ours.decode_latents(latents)) < 1e-4
            assert apart(expected, case.stream(part, latents, [])) < 1e-4


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
def test_codes_are_those_of_the_original(theirs: Any, ours: AdaptedCodec, graphs: dict[str, Run], stages: int) -> None:
    columns = theirs.encoder(voice(200))
    expected = as_lines(theirs.quantizer(columns)[1][:stages])
    rows = as_frames(columns).contiguous()
    (found,) = graphs["quantizer_encode"](rows, np.array(stages))
    assert found.shape == (1, sum(WIDTHS[:stages]), 200)
    assert (found != expected.numpy()).mean() <= 0.005
    assert (ours.quantizer.encode(rows, stages) != expected).float().mean() <= 0.005
    assert apart(ours.quantizer.decode(expected), graphs["quantizer_decode"](expected)[0]) < 1e-5
    if stages == STAGES:
        vectors = as_frames(theirs.quantizer.from_codes(theirs.quantizer(columns)[1]))
        assert apart(vectors, ours.quantizer.decode(expected)) < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_streams_cut_anyhow_are_the_whole_clip(ours: AdaptedCodec, case: Streamed, seed: int) -> None:
    """Bit for bit; the last call of odd seeds is a flush, with nothing new."""
    rng, frames, c = np.random.default_rng(seed), 50, ours.contract
    clip = voice(frames)
    latents = ours.encode_latents(clip)
    for part, x, start in (("encoder", clip, c.encoder_start), ("decoder", latents, c.decoder_start)):
        within = rng.choice(np.arange(start + 1, frames), 7, replace=False)
        cuts = [start, *sorted(within)] + [frames] * (seed % 2)
        assert np.array_equal(case.stream(part, x, cuts), case.stream(part, x, []))


def test_calls_hold_back_whole_frames(ours: AdaptedCodec, graphs: dict[str, Run]) -> None:
    c, state = ours.contract, np.zeros((1, ours.encoder.state_size), np.float32)
    for frames, size, last in ((c.encoder_start, 1, 0), (2, 2, 0), (0, c.encoder_lookahead, 1)):
        audio = np.zeros((1, 1, frames * FRAME), np.float32)
        latents, state = graphs["encoder"](audio, state, np.array(last))
        assert latents.shape == (1, size, c.latent_dim)


def test_rows_of_a_batch_are_alone(case: Streamed, graphs: dict[str, Run]) -> None:
    clips = torch.cat([voice(30), voice(30).flip(2) * 0.5])
    cuts = [case.contract.encoder_start]
    both = case.stream("encoder", clips, cuts)
    (codes,) = graphs["quantizer_encode"](both, np.array(STAGES))
    for i in range(2):
        assert np.array_equal(both[i : i + 1], case.stream("encoder", clips[i : i + 1], cuts))
        assert np.array_equal(codes[i : i + 1], graphs["quantizer_encode"](both[i : i + 1], np.array(STAGES))[0])


def test_a_changed_code_and_a_dropped_state_are_heard(ours: AdaptedCodec, case: Streamed) -> None:
    """Negative controls."""
    latents = ours.encode_latents(voice(40))
    codes = ours.quantizer.encode(latents, STAGES)
    spoiled = codes.clone()
    spoiled[0, 0, 20] ^= 1
    sound = [case.stream("decoder", ours.quantizer.decode(c), []) for c in (codes, spoiled)]
    assert apart(*sound) > 1e-3
    first, rest = np.split(latents.numpy(), [ours.contract.decoder_start], axis=1)
    run = case.graphs["decoder"]
    _, state = run(first, np.zeros((1, ours.decoder.state_size), np.float32), np.array(0))
    lost = np.concatenate([state[:, :1], np.zeros_like(state[:, 1:])], axis=1)  # the flag is kept
    assert apart(*(run(rest, s, np.array(1))[0] for s in (state, lost))) > 1e-3


def test_other_layouts(theirs: Any, ours: AdaptedCodec) -> None:
    """Without depthwise convolutions and noise; weight normalisation in its older spelling."""
    plain = CONFIG | {"noise": False, "depthwise": False}
    model = snac.SNAC(**plain).eval().requires_grad_(False)
    codec, clip = adapter.from_original(plain, Weights(model.state_dict(), "file")), voice(20)
    columns = model.encoder(clip)
    assert apart(as_frames(columns), codec.encode_latents(clip)) < 1e-4
    assert apart(model.decoder(columns), codec.decode_latents(as_frames(columns))) < 1e-4
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in theirs.state_dict().items()
    }
    other = adapter.from_original(CONFIG, Weights(older, "older"))
    assert other.contract == ours.contract
    for (name, a), (also, b) in zip(ours.state_dict().items(), other.state_dict().items(), strict=True):
        assert name == also
        assert torch.equal(a, b)


def test_published_sizes_at_24_khz() -> None:
    """The strides of the published model: 2,048 samples a frame, 1 + 2 + 4 codes."""
    sizes = {"encoder_rates": [2, 4, 8, 8], "decoder_rates": [8, 8, 4, 2], "encoder_dim": 1, "decoder_dim": 16}
    c = adapter.from_original(CONFIG | sizes, Weights(snac.SNAC(**CONFIG | sizes).state_dict(), "file")).contract
    assert (c.frame_size, c.stage_widths) == (2048, (1, 2, 4))
    assert math.isclose(sum(c.stage_widths) * 12 * c.sample_rate / c.frame_size, 984.375)  # bit/s, of 4,096 entries
    assert (c.encoder_lookahead, c.decoder_lookahead) == (3, 4757)  # the decoder's is DAC's, of the same strides


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_window_size": 32}, "attention over 32 channels, no multiple of 64"),
        ({"attn_window_size": 0}, "attn_window_size must be null or 1 to 1024"),
        ({"attn_window_size": "32"}, "attn_window_size must be null or 1 to 1024"),
        ({"encoder_dim": 8}, r"encoder.conv1.* is \[4, 1, 7\], expected \[8, 1, 7\]"),
        ({"vq_strides": [4, 2]}, "must fall to 1"),
        ({"vq_strides": [3, 2, 1]}, "must fall to 1"),
        ({"vq_strides": [2, 1]}, "tensors belong to no part of the model"),
        ({"encoder_rates": [2, 3]}, "of other frames"),
        ({"encoder_rates": [1, 24]}, "must list 1 to 8 whole numbers from 2"),
        ({"noise": 1}, "must be true or false"),
        ({"noise": False}, "lacks the tensor"),
        ({"codebook_size": "64"}, "codebook_size must be a whole number"),
        ({"latent_dim": 16}, "latents of 16 dimensions"),
        ({"decoder_dim": 36}, "cannot be halved"),
    ],
)
def test_what_is_not_adapted_or_contradicts_itself_is_refused(
    theirs: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        adapted(theirs, **changes)
    assert "\n" not in str(caught.value)
