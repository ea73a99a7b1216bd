"""EnCodec's stereo model, from other people's names to graphs, against transformers in torch and in onnxruntime.

Random weights prove nothing by themselves: the last GroupNorm of the encoder centres the latents here, codebooks are
drawn from what earlier stages left, shrunk, and the fall of the residual is asserted.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from edgecodec.errors import CheckpointError
from edgecodec_export.adapters import encodec
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.graphs import adapted_graphs
from edgecodec_export.adapters.weights import Weights
from edgecodec_export.audio import synthetic_voice
from edgecodec_export.fp16 import round_to_fp16, store_fp16
from streamed import Run, apart, in_onnxruntime

transformers = pytest.importorskip("transformers")

STAGES, LENGTH, FRAME, COLUMNS, DIM, SIDE = 6, 400, 380, 20, 16, 4
OVERLAP = LENGTH - FRAME
KBPS = 2.4  # of a stage: 400 columns a second, 6 bits
STEREO: dict[str, Any] = {
    "audio_channels": 2,
    "use_causal_conv": False,
    "norm_type": "time_group_norm",
    "normalize": True,
}
CONFIG: dict[str, Any] = STEREO | {
    "sampling_rate": 8_000,
    "chunk_length_s": 0.05,
    "overlap": 0.05,
    "num_filters": 4,
    "hidden_size": DIM,
    "codebook_dim": DIM,
    "codebook_size": 64,
    "upsampling_ratios": [5, 4],
    "target_bandwidths": [KBPS * n + 0.01 for n in range(1, STAGES + 1)],
}
SHRUNK = 0.6  # codebook entries, of the residuals that they are drawn from


def stereo(samples: int) -> torch.Tensor:
    """A clip whose loudness varies and whose channels differ, [1, 2, samples]."""
    voice = torch.from_numpy(synthetic_voice(samples / 8_000 + 0.1, 8_000)[: samples + 7])
    sway = 0.6 + 0.4 * torch.sin(torch.arange(samples) / 1_500)
    return torch.stack([voice[7:] * sway, 0.5 * voice[:-7]])[None]


def small_model() -> Any:
    """An EncodecModel with latents around zero and codebooks that fit them."""
    torch.manual_seed(0)
    model = transformers.EncodecModel(transformers.EncodecConfig(**CONFIG)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if ".norm." in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
    clip = stereo(60 * FRAME)
    norm = model.encoder.layers[-1].norm
    norm.weight /= their_latents(model, clip)[..., :-1].reshape(-1, DIM).std(0)
    norm.bias -= their_latents(model, clip)[..., :-1].reshape(-1, DIM).mean(0)
    rest = their_latents(model, clip)[..., :-1].reshape(-1, DIM)
    for layer in model.quantizer.layers:
        drawn = rest[torch.randperm(len(rest))[: CONFIG["codebook_size"]]]
        layer.codebook.embed.copy_(SHRUNK * drawn)
        rest = rest - layer.decode(layer.encode(rest.T[None]))[0].T
    return model


def padded(clip: torch.Tensor) -> torch.Tensor:
    """As the feature extractor of transformers pads: whole frames, and the end of the last chunk."""
    frames = -(-clip.shape[2] // FRAME)
    return torch.nn.functional.pad(clip, (0, frames * FRAME + OVERLAP - clip.shape[2]))


def whole_frames(clip: torch.Tensor) -> torch.Tensor:
    """As our runtime pads."""
    return padded(clip)[..., :-OVERLAP]


def their_codes(model: Any, clip: torch.Tensor, stages: int) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """Codes [chunks, B, stages, columns], scales, and the columns that the last chunk lacks; it is beyond the clip."""
    mask = torch.arange(padded(clip).shape[2]) < clip.shape[2]
    mask = mask.expand(len(clip), 1, -1)
    return tuple(model.encode(padded(clip), mask, CONFIG["target_bandwidths"][stages - 1], return_dict=False))


def their_latents(model: Any, clip: torch.Tensor) -> torch.Tensor:
    """What their encoder makes of every chunk, as our frames [B, T, columns * D + 1]."""
    _, scales, _ = their_codes(model, clip, 1)
    rows = []
    for i, scale in enumerate(scales[:-1]):
        chunk = padded(clip)[..., i * FRAME : i * FRAME + LENGTH]
        columns = model.encoder(chunk / scale[..., None]).transpose(1, 2)
        rows.append(torch.cat([columns.flatten(1), scale], dim=1))
    return torch.stack(rows, dim=1)


def as_lines(codes: torch.Tensor) -> torch.Tensor:
    """Their codes of chunks [T, B, stages, columns] as lines [B, stages * columns, T]."""
    return codes.permute(1, 2, 3, 0).flatten(1, 2)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return small_model()


def adapted(model: Any) -> AdaptedCodec:
    return encodec.from_transformers(model.config.to_dict(), Weights(model.state_dict(), "transformers"))


@pytest.fixture(scope="module")
def ours(theirs: Any) -> AdaptedCodec:
    return adapted(theirs)


@pytest.fixture(scope="module")
def models(ours: AdaptedCodec) -> dict[str, Any]:
    return adapted_graphs(ours)


@pytest.fixture(scope="module")
def graphs(models: dict[str, Any]) -> dict[str, Run]:
    return {name: in_onnxruntime(model) for name, model in models.items()}


def encoded(run: Run, clip: Any, cuts: list[int]) -> np.ndarray[Any, Any]:
    """A clip of whole frames through the encoder, cut at frames; the last call has what is left, perhaps nothing."""
    state, out = np.zeros((len(clip), 1 + 2 * FRAME), np.float32), []
    pieces = np.split(np.asarray(clip), [cut * FRAME for cut in cuts], axis=2)
    for i, piece in enumerate(pieces):
        last = int(i + 1 == len(pieces))
        latents, state = run(piece, state, np.array(last))
        assert latents.shape[1] == piece.shape[2] // FRAME - (i == 0) + last
        out.append(latents)
    return np.concatenate(out, axis=1)


def decoded(run: Run, latents: Any, cuts: list[int]) -> np.ndarray[Any, Any]:
    state, out = np.zeros((len(latents), 1 + 2 * OVERLAP), np.float32), []
    for piece in np.split(np.asarray(latents), cuts, axis=1):
        audio, state = run(piece, state)
        assert audio.shape == (len(latents), 2, piece.shape[1] * FRAME)
        out.append(audio)
    return np.concatenate(out, axis=2)


def assert_close_latents(expected: torch.Tensor, found: Any) -> None:
    """Columns by their largest, and every scale by itself."""
    found = np.asarray(found)
    assert apart(expected[..., :-1], found[..., :-1]) < 1e-4
    assert np.allclose(expected[..., -1], found[..., -1], rtol=1e-5, atol=0)


def test_contract(ours: AdaptedCodec) -> None:
    c = ours.contract
    assert (c.sample_rate, c.frame_size, c.channels, c.side) == (8_000, FRAME, 2, SIDE)
    assert (c.latent_dim, c.codebook_size, c.max_stages) == (COLUMNS * DIM + 1, 64, STAGES)
    assert c.stage_widths == (COLUMNS,) * STAGES
    assert (c.encoder_lookahead, c.encoder_start, c.decoder_lookahead, c.decoder_start, c.call_frames) == (
        1,
        2,
        0,
        1,
        0,
    )


def test_published_sizes() -> None:
    """Those of facebook/encodec_48khz but for the width of its layers."""
    sizes = {
        "sampling_rate": 48_000,
        "chunk_length_s": 1.0,
        "overlap": 0.01,
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
    }
    codec = adapted(transformers.EncodecModel(transformers.EncodecConfig(**STEREO | sizes, num_filters=2)))
    c = codec.contract
    assert (c.frame_size, c.latent_dim, c.max_stages, c.stage_widths) == (47_520, 19_201, 16, (150,) * 16)
    assert (codec.encoder.state_size, codec.decoder.state_size) == (95_041, 961)
    assert codec.facts["chunk_length"] == 48_000


def test_residual_falls_at_every_stage(ours: AdaptedCodec) -> None:
    latents = ours.encode_latents(stereo(40 * FRAME))
    energy = [float(latents[..., :-1].square().mean())]
    for n in range(1, STAGES + 1):
        left = latents - ours.quantizer.decode(ours.quantizer.encode(latents, n))
        assert not left[..., -1].any()  # the scale is kept whole
        energy.append(float(left.square().sum() / latents[..., :-1].numel()))
    falls = [after / before for before, after in itertools.pairwise(energy)]
    assert max(falls) < 0.9, falls
    assert energy[-1] > 1e-3 * energy[0]  # and something is left: no stage quantizes rounding noise


# The last chunk is short, by little and by almost all of it, or the clip ends with a frame.
CLIPS = [1, 100, FRAME, FRAME + 1, FRAME + OVERLAP, 2 * FRAME, 3 * FRAME - 1, 3 * FRAME, 20 * FRAME + 300]


@pytest.mark.parametrize("samples", CLIPS)
def test_latents_are_those_of_transformers(
    theirs: Any, ours: AdaptedCodec, graphs: dict[str, Run], samples: int
) -> None:
    clip = torch.cat([stereo(samples), stereo(samples).flip(1) * 0.3])
    expected = their_latents(theirs, clip)
    assert_close_latents(expected, ours.encode_latents(whole_frames(clip)))
    assert_close_latents(expected, encoded(graphs["encoder"], whole_frames(clip), []))


@pytest.mark.parametrize("samples", CLIPS)
def test_audio_is_that_of_transformers(theirs: Any, ours: AdaptedCodec, graphs: dict[str, Run], samples: int) -> None:
    clip = torch.cat([stereo(samples), stereo(samples).flip(1) * 0.3])
    codes, scales, missing = their_codes(theirs, clip, STAGES)
    expected = theirs.decode(codes, scales, last_frame_pad_length=missing).audio_values[..., :samples]
    side = ours.quantizer.encode(their_latents(theirs, clip), 1)[:, :SIDE]
    lines = torch.cat([side, as_lines(codes[:-1])], dim=1)
    latents = ours.quantizer.decode(lines)
    assert apart(expected, ours.decode_latents(latents)[..., :samples]) < 1e-4
    (looked_up,) = graphs["quantizer_decode"](lines)
    assert apart(latents, looked_up) < 1e-6
    assert apart(expected, decoded(graphs["decoder"], looked_up, [])[..., :samples]) < 1e-4


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
def test_codes_are_those_of_transformers(theirs: Any, ours: AdaptedCodec, graphs: dict[str, Run], stages: int) -> None:
    clip = torch.cat([stereo(30 * FRAME), stereo(30 * FRAME).flip(1) * 0.3])
    expected = as_lines(their_codes(theirs, clip, stages)[0][:-1])
    latents = encoded(graphs["encoder"], clip, [])
    (found,) = graphs["quantizer_encode"](latents, np.array(stages))
    assert found.shape == (2, SIDE + stages * COLUMNS, 30)
    assert (found[:, SIDE:] != expected.numpy()).mean() <= 0.005
    in_torch = ours.quantizer.encode(torch.from_numpy(latents), stages)
    assert np.array_equal(found[:, :SIDE], in_torch[:, :SIDE])
    assert (found != in_torch.numpy()).mean() <= 0.005


@pytest.mark.parametrize("seed", range(6))
def test_streams_cut_anyhow_are_the_whole_clip(graphs: dict[str, Run], seed: int) -> None:
    """Bit for bit; the last call of odd seeds is a flush, with nothing new."""
    rng, frames = np.random.default_rng(seed), 17
    clip = torch.cat([stereo(frames * FRAME), stereo(frames * FRAME).flip(1) * 0.3])
    within = np.sort(rng.choice(np.arange(3, frames), 6, replace=False))
    whole = encoded(graphs["encoder"], clip, [])
    assert np.array_equal(encoded(graphs["encoder"], clip, [2, *within] + [frames] * (seed % 2)), whole)
    assert np.array_equal(decoded(graphs["decoder"], whole, [1, *within]), decoded(graphs["decoder"], whole, []))


def test_torch_streams_as_the_graphs_do(ours: AdaptedCodec) -> None:
    clip = stereo(9 * FRAME)
    state, out = ours.encoder.zero_state(1), []
    for piece, last in ((clip[..., : 2 * FRAME], 0), (clip[..., 2 * FRAME :], 0), (clip[..., :0], 1)):
        y, state = ours.encoder(piece, state, torch.tensor(last))
        out.append(y)
    assert apart(ours.encode_latents(clip), torch.cat(out, dim=1)) < 1e-6


def test_rows_of_a_batch_are_alone(graphs: dict[str, Run]) -> None:
    clips = torch.cat([stereo(8 * FRAME), stereo(8 * FRAME).flip(1) * 0.3, torch.zeros(1, 2, 8 * FRAME)])
    latents = encoded(graphs["encoder"], clips, [3])
    (codes,) = graphs["quantizer_encode"](latents, np.array(STAGES))
    audio = decoded(graphs["decoder"], latents, [3])
    for i in range(3):
        row = slice(i, i + 1)
        assert np.array_equal(latents[row], encoded(graphs["encoder"], clips[row], [3]))
        assert np.array_equal(codes[row], graphs["quantizer_encode"](latents[row], np.array(STAGES))[0])
        assert np.array_equal(audio[row], decoded(graphs["decoder"], latents[row], [3]))


def neighbours(*values: float) -> list[float]:
    return [float(n) for v in values for n in (np.nextafter(np.float32(v), np.float32(s)) for s in (0, 9e9))]


POWERS = [2.0**n for n in (-126, -30, -1, 0, 1, 10, 16)]
SCALES = [1e-8, 1e-3, 0.5, 1.0, 2.0, 0.1, np.pi, *POWERS, *neighbours(1e-8, 1e-3, 0.5, 1.0, 2.0, *POWERS[:-1])]


def test_scales_survive_bit_for_bit(ours: AdaptedCodec, graphs: dict[str, Run]) -> None:
    """Also nothing, and what is smaller than the smallest normal number; in torch the bits are looked at."""
    drawn = np.exp(np.random.default_rng(0).uniform(-18, 3, 500))
    scales = torch.tensor([*SCALES, 0.0, 2.0**-149, 3.0e-39, *drawn], dtype=torch.float32)
    latents = torch.zeros(1, len(scales), COLUMNS * DIM + 1)
    latents[0, :, -1] = scales
    (codes,) = graphs["quantizer_encode"](latents, np.array(2))
    assert np.array_equal(codes, ours.quantizer.encode(latents, 2))
    assert codes.min() >= 0
    assert codes[:, :SIDE].max() <= 255
    (again,) = graphs["quantizer_decode"](codes)
    for found in (torch.from_numpy(again), ours.quantizer.decode(torch.from_numpy(codes))):
        assert torch.equal(found[0, :, -1].view(torch.int32), scales.view(torch.int32))
    exponents, mantissas = codes[0, 0], codes[0, 1:SIDE]
    one = SCALES.index(1.0)
    assert (exponents[one], *mantissas[:, one]) == (127, 0, 0, 0)


def test_scales_that_no_encoder_makes(ours: AdaptedCodec, graphs: dict[str, Run]) -> None:
    """What is out of range still makes codes, and all codes make numbers."""
    latents = torch.zeros(1, 2, COLUMNS * DIM + 1)
    latents[0, :, -1] = torch.tensor([-1.0, torch.inf])
    (codes,) = graphs["quantizer_encode"](latents, np.array(1))
    assert codes[0, :SIDE].T.tolist() == [[0, 0, 0, 0], [143, 127, 255, 255]]
    assert np.array_equal(codes, ours.quantizer.encode(latents, 1))
    codes[:, :SIDE] = 255
    (found,) = graphs["quantizer_decode"](codes)
    assert np.isfinite(found).all()
    assert np.array_equal(found, ours.quantizer.decode(torch.from_numpy(codes)))


def test_silence(theirs: Any, ours: AdaptedCodec, graphs: dict[str, Run]) -> None:
    clip = torch.zeros(1, 2, 3 * FRAME)
    latents = encoded(graphs["encoder"], clip, [])
    assert_close_latents(their_latents(theirs, clip), latents)
    assert (latents[..., -1] == np.float32(1e-8)).all()
    codes = graphs["quantizer_encode"](latents, np.array(STAGES))[0]
    audio = decoded(graphs["decoder"], graphs["quantizer_decode"](codes)[0], [])
    assert np.abs(audio).max() < 1e-6


def test_a_changed_code_and_a_dropped_state_are_heard(ours: AdaptedCodec, graphs: dict[str, Run]) -> None:
    """Negative controls."""
    clip = stereo(10 * FRAME).numpy()
    latents = encoded(graphs["encoder"], clip, [])
    codes = graphs["quantizer_encode"](latents, np.array(STAGES))[0]
    sound = decoded(graphs["decoder"], graphs["quantizer_decode"](codes)[0], [])
    for line, bit in ((0, 1), (1, 64), (SIDE, 1), (SIDE + COLUMNS, 1)):
        spoiled = codes.copy()
        spoiled[0, line, 4] ^= bit
        assert apart(sound, decoded(graphs["decoder"], graphs["quantizer_decode"](spoiled)[0], [])) > 1e-3
    for state_size, run, pieces in (
        (1 + 2 * FRAME, lambda x, s: graphs["encoder"](x, s, np.array(0)), np.split(clip, [4 * FRAME], axis=2)),
        (1 + 2 * OVERLAP, graphs["decoder"], np.split(latents, [4], axis=1)),
    ):
        _, state = run(pieces[0], np.zeros((1, state_size), np.float32))
        lost = np.concatenate([state[:, :1], np.zeros_like(state[:, 1:])], axis=1)  # the flag is kept
        assert apart(run(pieces[1], state)[0], run(pieces[1], lost)[0]) > 1e-3


def test_rounded_codebooks_leave_the_scale_alone(ours: AdaptedCodec) -> None:
    """The weights in float16; what it stores shorter is the numbers that it computes with."""
    latents = ours.encode_latents(stereo(12 * FRAME))
    quantizer = ours.quantizer.rounded(round_to_fp16)
    expected = quantizer.encode(latents, STAGES)
    run = {name: in_onnxruntime(store_fp16(model)) for name, model in quantizer.graphs().items()}
    (found,) = run["quantizer_encode"](latents, np.array(STAGES))
    assert (found != expected.numpy()).mean() <= 0.005
    (again,) = run["quantizer_decode"](found)
    assert np.array_equal(again[..., -1], latents[..., -1])
    exact = ours.quantizer.decode(torch.from_numpy(found))
    assert 0 < apart(exact[..., :-1], again[..., :-1]) < 1e-3


def test_search_costs_what_its_columns_do(ours: AdaptedCodec) -> None:
    assert ours.quantizer.macs() == COLUMNS * STAGES * 64 * DIM


def original_names(tensors: dict[str, torch.Tensor], ratios: int) -> dict[str, torch.Tensor]:
    """As the encodec package calls them."""
    renamed = {}
    transposed = "|".join(str(3 * i) for i in range(1, ratios + 1))
    for name, tensor in tensors.items():
        new = re.sub(r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", name)
        new = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", new)
        up = re.match(rf"decoder\.model\.({transposed})\.(conv|norm)\.", new)
        wrapper, inner = ("convtr", "convtr") if up else ("conv", "conv")
        new = re.sub(r"\.conv\.(weight|bias)$", rf".{wrapper}.{inner}.\1", new)
        renamed[re.sub(r"\.norm\.(weight|bias)$", rf".{wrapper}.norm.\1", new)] = tensor
    return renamed


def test_names_of_the_original_package_give_the_same_graphs(
    theirs: Any, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file holds no configuration: here the small one stands for the published one."""
    monkeypatch.setattr(encodec, "STEREO_48_KHZ", CONFIG)
    tensors = original_names(theirs.state_dict(), len(CONFIG["upsampling_ratios"]))
    assert {
        "encoder.model.0.conv.norm.weight",
        "decoder.model.3.convtr.norm.bias",
        "decoder.model.9.conv.conv.weight",
    } < set(tensors)
    again = adapted_graphs(encodec.from_original(Weights(tensors, "original")))
    assert again.keys() == models.keys()
    for name, model in models.items():
        assert model.SerializeToString() == again[name].SerializeToString()


def test_an_original_file_with_two_channels_is_the_stereo_model() -> None:
    """At the real size."""
    config = transformers.EncodecConfig(**encodec.STEREO_48_KHZ)
    model = transformers.EncodecModel(config).eval()
    mine, original = adapted(model), encodec.from_original(Weights(original_names(model.state_dict(), 4), "original"))
    assert original.contract == mine.contract
    for (name, a), (other, b) in zip(mine.state_dict().items(), original.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_channels": 1}, r"audio_channels = 1 is not adapted; the nearest that is, the chunked model, has 2"),
        ({"normalize": False}, "normalize = False"),
        ({"norm_type": "weight_norm"}, "norm_type = 'weight_norm'"),
        ({"use_causal_conv": True}, "use_causal_conv = True"),
        ({"chunk_length_s": None}, "chunks of None s"),
        ({"chunk_length_s": "1"}, "chunks of '1' s"),
        ({"overlap": None}, "overlap by None"),
        ({"overlap": 0.0}, "overlap by 0.0"),
        ({"overlap": 0.6}, "overlap by 0.6"),
        ({"chunk_length_s": 0.051}, "no whole columns of 20"),
        ({"chunk_length_s": 0.0075}, "chunks of 3 columns cannot be reflected by 3"),
        ({"pad_mode": "constant"}, "padded by constant"),
        ({"pad_mode": "replicate"}, "pad_mode 'replicate'"),
        ({"num_filters": 8}, r"encoder.layers.0.conv.weight is \[4, 2, 7\], expected \[8, 2, 7\]"),
        ({"upsampling_ratios": [5, 2]}, "expected"),
        ({"use_conv_shortcut": False}, "tensors belong to no part of the model"),
        ({"target_bandwidths": [KBPS * 5 + 0.01]}, "tensors belong to no part of the model, first quantizer.layers.5"),
    ],
)
def test_what_is_not_adapted_or_contradicts_itself_is_refused(
    theirs: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        encodec.from_transformers(theirs.config.to_dict() | changes, Weights(theirs.state_dict(), "file"))
    assert "\n" not in str(caught.value)


def test_there_is_no_other_start(theirs: Any) -> None:
    weights = Weights(theirs.state_dict(), "file")
    with pytest.raises(CheckpointError, match=r"file: EnCodec in chunks .* starts in one way"):
        encodec.from_transformers(theirs.config.to_dict(), weights, start="exact")
