"""SNAC with attention in windows (as at 32 and 44 kHz), from the original's names to graphs, against `snac`."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from edgecodec.errors import CheckpointError
from edgecodec_export.adapters import snac as adapter
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.int8_layers import use_int8
from edgecodec_export.adapters.weights import Weights
from streamed import Streamed, apart
from test_snac import CONFIG, as_lines, small_model, snac, voice
from test_snac import as_frames as frames_of

CHANGES: dict[str, Any] = {  # channels make whole heads; a window is two of the coarsest codes
    "encoder_dim": 8,
    "decoder_dim": 64,
    "encoder_rates": [2, 2, 3],
    "decoder_rates": [3, 2, 2],
    "attn_window_size": 16,
    "vq_strides": [8, 4, 2, 1],
}
HOP, COLUMNS, STAGES = 12, 16, 4
FRAME = HOP * COLUMNS
WIDTHS = [2, 4, 8, 16]


def windowed_model() -> Any:
    """As `small_model`, with attention to which positions matter."""
    model = small_model(**CHANGES)
    for attention in (model.encoder.block[-2], model.decoder.model[2]):
        assert type(attention).__name__ == "LocalMHA"
        attention.to_qkv.weight *= 3  # scores far from even, so that positions count
        attention.norm.weight.copy_(1 + 0.3 * torch.randn(64))
        attention.norm.bias.copy_(0.3 * torch.randn(64))
    last = model.encoder.block[-1]
    last.bias -= model.encoder(clip(60)).mean((0, 2))
    return model


@pytest.fixture(scope="module")
def theirs() -> Any:
    return windowed_model()


def clip(frames: int) -> torch.Tensor:
    return voice(frames, FRAME)


@pytest.fixture(scope="module")
def ours(theirs: Any) -> AdaptedCodec:
    return adapter.from_original(CONFIG | CHANGES, Weights(theirs.state_dict(), "file"))


@pytest.fixture(scope="module")
def case(ours: AdaptedCodec) -> Streamed:
    return Streamed(ours)


def as_frames(columns: torch.Tensor) -> torch.Tensor:
    return frames_of(columns, COLUMNS)


def test_a_frame_is_a_window(ours: AdaptedCodec) -> None:
    c = ours.contract
    assert (c.frame_size, c.latent_dim, c.stage_widths) == (FRAME, COLUMNS * 64, tuple(WIDTHS))
    assert (c.encoder_lookahead, c.encoder_start) == (3, 4)
    assert c.decoder_start == c.decoder_lookahead // FRAME + 1


def test_residual_falls_at_every_stage(ours: AdaptedCodec) -> None:
    latents = ours.encode_latents(clip(60))
    energy = [float(latents.square().mean())]
    for n in range(1, STAGES + 1):
        energy.append(float((latents - ours.quantizer.decode(ours.quantizer.encode(latents, n))).square().mean()))
    falls = [after / before for before, after in itertools.pairwise(energy)]
    assert max(falls) < 0.97, falls


@pytest.mark.parametrize("samples", [1, FRAME, 2 * FRAME - 5, 3 * FRAME, 20 * FRAME])
def test_clips_that_the_original_pads(theirs: Any, ours: AdaptedCodec, case: Streamed, samples: int) -> None:
    sound = clip(21)[..., :samples]
    padded = theirs.preprocess(sound)
    assert padded.shape[2] == math.ceil(samples / FRAME) * FRAME  # as the runtime pads
    columns = theirs.encoder(padded)
    latents = as_frames(columns)
    assert apart(latents, ours.encode_latents(padded)) < 1e-4
    assert apart(latents, case.stream("encoder", padded, [])) < 1e-4
    expected = theirs.decoder(columns)
    assert apart(expected, ours.decode_latents(latents)) < 1e-4
    assert apart(expected, case.stream("decoder", latents, [])) < 1e-4


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
def test_codes_are_those_of_the_original(theirs: Any, ours: AdaptedCodec, case: Streamed, stages: int) -> None:
    columns = theirs.encoder(clip(60))
    codes = theirs.quantizer(columns)[1]
    expected = as_lines(codes[:stages], WIDTHS)
    latents = as_frames(columns).contiguous()
    (found,) = case.graphs["quantizer_encode"](latents, np.array(stages))
    assert found.shape == (1, sum(WIDTHS[:stages]), 60)
    assert (found != expected.numpy()).mean() <= 0.005
    assert (ours.quantizer.encode(latents, stages) != expected).float().mean() <= 0.005
    vectors = ours.quantizer.decode(expected)
    assert apart(vectors, case.graphs["quantizer_decode"](expected)[0]) < 1e-5
    of_stages = sum(
        layer.out_proj(layer.decode_code(code)).repeat_interleave(layer.stride, dim=-1)
        for layer, code in zip(theirs.quantizer.quantizers, codes[:stages], strict=False)
    )
    assert apart(as_frames(of_stages), vectors) < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_streams_cut_anyhow_are_the_whole_clip(ours: AdaptedCodec, case: Streamed, seed: int) -> None:
    """Bit for bit; the last call of odd seeds is a flush, with nothing new."""
    rng, frames, c = np.random.default_rng(seed), 24, ours.contract
    sound = clip(frames)
    latents = ours.encode_latents(sound)
    for part, x, start in (("encoder", sound, c.encoder_start), ("decoder", latents, c.decoder_start)):
        within = rng.choice(np.arange(start + 1, frames), 5, replace=False)
        cuts = [start, *sorted(within)] + [frames] * (seed % 2)
        assert np.array_equal(case.stream(part, x, cuts), case.stream(part, x, []))


def test_rows_of_a_batch_are_alone(case: Streamed) -> None:
    clips = torch.cat([clip(8), clip(8).flip(2) * 0.5])
    cuts = [case.contract.encoder_start]
    both = case.stream("encoder", clips, cuts)
    for i in range(2):
        assert np.array_equal(both[i : i + 1], case.stream("encoder", clips[i : i + 1], cuts))


def test_windows_that_begin_elsewhere_and_no_positions_are_noticed(theirs: Any, ours: AdaptedCodec) -> None:
    """Negative controls."""
    sound = clip(12)
    expected = as_frames(theirs.encoder(sound))
    late = ours.encode_latents(torch.cat([sound.new_zeros(1, 1, 4 * HOP), sound], dim=2)[..., : 12 * FRAME])
    middle = slice(5 * COLUMNS, 7 * COLUMNS)
    columns, moved = (x.reshape(1, -1, 64) for x in (expected, late))
    assert apart(columns[:, middle], moved[:, 4 + middle.start : 4 + middle.stop]) > 1e-3
    state = {name: 0 * t if name.endswith("inv_freq") else t for name, t in theirs.state_dict().items()}
    unplaced = adapter.from_original(CONFIG | CHANGES, Weights(state, "file"))
    assert apart(expected, unplaced.encode_latents(sound)) > 1e-3


def test_int8_in_attention(ours: AdaptedCodec) -> None:
    """The graph has the numbers of the rounded model, whose latents are near those of the exact one."""
    codec, sound = copy.deepcopy(ours), clip(20)
    use_int8(codec, [sound[0].numpy()], least=1)
    rounded = codec.encode_latents(sound)
    assert 1e-5 < apart(ours.encode_latents(sound), rounded) < 0.02
    assert apart(rounded, Streamed(codec).stream("encoder", sound, [])) < 1e-4


def test_published_sizes() -> None:
    """The strides of 32 and 44 kHz: 12,288 samples a frame, 60 codes."""
    sizes = {"encoder_rates": [2, 3, 8, 8], "decoder_rates": [8, 8, 3, 2], "encoder_dim": 4, "decoder_dim": 64}
    config = CONFIG | sizes | {"attn_window_size": 32, "vq_strides": [8, 4, 2, 1], "sampling_rate": 32_000}
    c = adapter.from_original(config, Weights(snac.SNAC(**config).state_dict(), "file")).contract
    assert (c.frame_size, c.stage_widths) == (12_288, (4, 8, 16, 32))
    assert math.isclose(sum(c.stage_widths) * 12 * 32_000 / c.frame_size, 1875)  # bit/s, of 4,096 entries
    assert (c.encoder_lookahead, c.decoder_lookahead) == (2, 14_735)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_window_size": None}, "encoder.block.4.norm|lacks the tensor"),
        ({"decoder_dim": 32}, "attention over 32 channels"),
        ({"depthwise": False}, "lacks the tensor|expected"),
    ],
)
def test_what_contradicts_itself_is_refused(theirs: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        adapter.from_original(CONFIG | CHANGES | changes, Weights(theirs.state_dict(), "file"))
