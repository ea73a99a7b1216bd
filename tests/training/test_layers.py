"""Layers: streamed in any chunks equals whole, and the transform gives its input back."""

import pytest
import torch
from edgecodec_training.causal import Chain
from edgecodec_training.convolutions import CausalConv, CausalUpsample, FrameBlocks, ResidualUnit
from edgecodec_training.lapped_transform import (
    LappedAnalysis,
    LappedSynthesis,
    band_hats,
    compand,
    expand,
    pseudo_power,
)

LAYERS = {
    "conv k7": (lambda: CausalConv(3, 5, 7), (2, 3, 1, 12), 3, 1),
    "conv k3 dilated": (lambda: CausalConv(3, 5, 3, dilation=3), (2, 3, 1, 12), 3, 1),
    "conv k1": (lambda: CausalConv(3, 5, 1), (2, 3, 1, 12), 3, 1),
    "conv stride 4": (lambda: CausalConv(3, 5, 8, stride=4), (2, 3, 1, 48), 3, 4),
    "conv stride 5, kernel 5": (lambda: CausalConv(3, 5, 5, stride=5), (2, 3, 1, 60), 3, 5),
    "upsample 5": (lambda: CausalUpsample(3, 2, 5), (2, 3, 1, 12), 3, 1),
    "residual unit": (lambda: ResidualUnit(4, dilation=3), (2, 4, 1, 12), 3, 1),
    "frame blocks": (lambda: FrameBlocks(8, 3), (2, 1, 12, 8), 2, 1),
    "frame block k2": (lambda: FrameBlocks(8, 1, kernel=2), (2, 1, 12, 8), 2, 1),
    "analysis": (lambda: LappedAnalysis(6), (2, 1, 72), 2, 6),
    "chain": (lambda: Chain([CausalConv(3, 4, 4, stride=2), torch.nn.SiLU(), ResidualUnit(4)]), (2, 3, 1, 24), 3, 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_streamed_equals_whole(name: str) -> None:
    make, shape, axis, unit = LAYERS[name]
    torch.manual_seed(0)
    layer = make()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # blocks start at zero: give them something to compute
    x = torch.randn(shape)
    whole, _ = layer(x, layer.zero_state(2))
    state = layer.zero_state(2)
    assert state.shape == (2, layer.state_size)
    outputs = []
    for part in x.split([unit * n for n in (1, 3, 2, 1, 5)], dim=axis):
        y, state = layer(part, state)
        outputs.append(y)
    joined = torch.cat(outputs, dim=2 if "frame" in name or name == "analysis" else 3)
    torch.testing.assert_close(joined, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frame_size", [4, 16, 320])
def test_lapped_transform_reconstructs_one_frame_late(frame_size: int) -> None:
    analysis, synthesis = LappedAnalysis(frame_size), LappedSynthesis(frame_size)
    audio = torch.randn(2, 1, 7 * frame_size)
    coefficients, _ = analysis(audio, analysis.zero_state(2))
    assert coefficients.shape == (2, 1, 7, frame_size)
    decoded, _ = synthesis(coefficients, synthesis.zero_state(2))
    torch.testing.assert_close(decoded[..., frame_size:], audio[..., :-frame_size], rtol=1e-4, atol=1e-5)


def test_synthesis_streams() -> None:
    synthesis = LappedSynthesis(6)
    coefficients = torch.randn(2, 1, 9, 6)
    whole, _ = synthesis(coefficients, synthesis.zero_state(2))
    state, outputs = synthesis.zero_state(2), []
    for part in coefficients.split([2, 1, 6], dim=2):
        y, state = synthesis(part, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=2), whole, rtol=1e-5, atol=1e-6)


def test_frame_blocks_refuse_a_kernel_without_past() -> None:
    with pytest.raises(ValueError, match="kernel of 2 frames or more, not 1"):
        FrameBlocks(8, 1, kernel=1)


def test_companding_is_inverted() -> None:
    x = torch.tensor([-4.0, -0.01, 0.0, 0.25, 9.0])
    torch.testing.assert_close(expand(compand(x)), x)


def test_pseudo_power_is_steadier_than_one_coefficient() -> None:
    """A steady sine: the squared coefficient at its peak swings with the phase, the pseudo-spectrum much less."""
    analysis = LappedAnalysis(64)
    sine = torch.sin(torch.arange(64 * 200) * 2 * torch.pi * 0.1234)[None, None]
    mdct, _ = analysis(sine, analysis.zero_state(1))
    peak = int(mdct[0, 0].square().mean(0).argmax())
    squared, pseudo = mdct[0, 0, 5:, peak].square(), pseudo_power(mdct)[0, 0, 5:, peak]
    assert pseudo.std() / pseudo.mean() < 0.5 * squared.std() / squared.mean()


def test_bands_become_a_smooth_line_over_bins() -> None:
    hats = band_hats(4, 32)
    assert hats.shape == (4, 32)
    torch.testing.assert_close(hats.sum(dim=0), torch.ones(32))
    line = torch.tensor([0.0, 1.0, 2.0, 3.0]) @ hats
    assert (line.diff() >= 0).all() and line.diff().max() < 0.2
