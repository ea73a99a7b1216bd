"""EnCodec's symmetric model, from the names of transformers to graphs, against transformers and in onnxruntime.

The oracle pads with zeros, as the graphs do by default, or mirrors, as they do with an exact start. As for the causal
model, the latents are centred, codebooks are drawn from what earlier stages left, shrunk, and the fall of the residual
is asserted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from edgecodec.errors import CheckpointError
from edgecodec_export.adapters import encodec
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.weights import Weights
from streamed import Streamed, apart

transformers = pytest.importorskip("transformers")

FRAME, STAGES = 20, 6
KBPS = 2.4  # of a stage: 400 frames a second, 6 bits
CONFIG: dict[str, Any] = {
    "use_causal_conv": False,
    "pad_mode": "constant",
    "sampling_rate": 8_000,
    "num_filters": 8,  # rows of a batch must begin at whole vectors: ELU takes what is left over one by one
    "hidden_size": 16,
    "codebook_dim": 16,
    "codebook_size": 64,
    "upsampling_ratios": [5, 4],
    "target_bandwidths": [KBPS * STAGES + 0.01],
}
# As published, with an exact start and without; and with what the other models have.
KINDS: dict[str, dict[str, Any]] = {
    "identity": {"use_conv_shortcut": False},
    "mirrored": {"use_conv_shortcut": False, "pad_mode": "reflect"},
    "shortcut": {"use_conv_shortcut": True, "num_residual_layers": 2},
}
SHRUNK = 0.6  # codebook entries, of the residuals that they are drawn from


def noise(frames: int) -> torch.Tensor:
    """Its latents have no outliers, which few entries would be spent on."""
    return 0.3 * torch.randn(1, 1, frames * FRAME, generator=torch.Generator().manual_seed(frames))


def small_model(**changes: Any) -> Any:
    """An EncodecModel with latents around zero and codebooks that fit them."""
    torch.manual_seed(0)
    config = transformers.EncodecConfig(**CONFIG | changes)
    model = transformers.EncodecModel(config).eval().requires_grad_(False)
    clip = noise(600)
    spread(model.encoder.layers[-1].conv, lambda: model.encoder(clip))
    spread(model.decoder.layers[-1].conv, lambda: model.decoder(model.encoder(clip)))
    rest = model.encoder(clip)[0].T
    for layer in model.quantizer.layers:
        drawn = rest[torch.randperm(len(rest))[: CONFIG["codebook_size"]]]
        layer.codebook.embed.copy_(SHRUNK * drawn)
        rest = rest - layer.decode(layer.encode(rest.T[None]))[0].T
    return model


def spread(last: Any, output: Callable[[], torch.Tensor]) -> None:
    """Centre a last layer's output, which is nearly constant with random weights, and give each channel its size."""
    last.parametrizations.weight.original0 *= 0.2 / output().std(dim=2).T[..., None]
    last.bias -= output().mean((0, 2))


def adapted(model: Any) -> AdaptedCodec:
    start: encodec.Start = "exact" if model.config.pad_mode == "reflect" else "zero"
    return encodec.from_transformers(model.config.to_dict(), Weights(model.state_dict(), "transformers"), start=start)


class Case(Streamed):
    """One small model of theirs, ours, and its graphs in onnxruntime."""

    def __init__(self, changes: dict[str, Any]) -> None:
        self.theirs = small_model(**changes)
        super().__init__(adapted(self.theirs))


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(KINDS[request.param])


def test_contract(case: Case) -> None:
    c = case.contract
    assert (c.sample_rate, c.frame_size, c.latent_dim, c.codebook_size, c.max_stages) == (8_000, FRAME, 16, 64, STAGES)
    assert (c.encoder_start, c.decoder_start) == (c.encoder_lookahead + 1, c.decoder_lookahead // FRAME + 1)
    assert (c.channels, c.side, c.stage_widths, c.call_frames) == (1, 0, (), 0)


def test_published_sizes() -> None:
    """Those of facebook/encodec_32khz but for the width of its layers."""
    sizes = {
        "sampling_rate": 32_000,
        "num_filters": 2,
        "hidden_size": 128,
        "codebook_dim": 128,
        "codebook_size": 2048,
        "upsampling_ratios": [8, 5, 4, 4],
        "target_bandwidths": [2.2],
        "pad_mode": "reflect",
    }
    c = adapted(transformers.EncodecModel(transformers.EncodecConfig(**CONFIG | sizes))).contract
    assert (c.frame_size, c.latent_dim, c.max_stages) == (640, 128, 4)
    assert (c.encoder_lookahead, c.decoder_lookahead, c.encoder_start, c.decoder_start) == (4, 2402, 5, 4)


def test_residual_falls_at_every_stage(case: Case) -> None:
    latents = case.ours.encode_latents(noise(400))
    energy = [float(latents.square().mean())]
    for n in range(1, STAGES + 1):
        left = latents - case.ours.quantizer.decode(case.ours.quantizer.encode(latents, n))
        energy.append(float(left.square().mean()))
    falls = [after / before for before, after in itertools.pairwise(energy)]
    assert max(falls) < 0.93, falls
    assert energy[-1] > 1e-3 * energy[0]  # and something is left: no stage quantizes rounding noise


@pytest.mark.parametrize("frames", [1, 2, 3, 4, -1, 0, 1000])
def test_latents_and_audio_are_those_of_transformers(case: Case, frames: int) -> None:
    """In torch and in onnxruntime, for clips around the least first call too."""
    for part, start in (("encoder", case.contract.encoder_start), ("decoder", case.contract.decoder_start)):
        clip = noise(frames if frames > 0 else start + frames)
        latents = case.theirs.encoder(clip).transpose(1, 2)
        if part == "encoder":
            assert apart(latents, case.ours.encode_latents(clip)) < 1e-4
            assert apart(latents, case.stream(part, clip, [])) < 1e-4
            continue
        audio = case.theirs.decoder(latents.transpose(1, 2))
        assert apart(audio, case.ours.decode_latents(latents)) < 1e-4
        assert apart(audio, case.stream(part, latents, [])) < 1e-4


def test_reflected_ends_are_another_clip(case: Case) -> None:
    """What stands beyond a clip shows at both ends, and there only: a negative control of mirroring and of zeros."""
    clip, frames = noise(200), 200
    expected = case.theirs.encoder(clip).transpose(1, 2)
    others = case.theirs.config.to_dict() | {"pad_mode": "reflect"}
    start: encodec.Start = "zero" if case.theirs.config.pad_mode == "reflect" else "exact"
    other = encodec.from_transformers(others, Weights(case.theirs.state_dict(), "transformers"), start=start)
    off = (other.encode_latents(clip) - expected).abs().amax((0, 2)) / expected.abs().max()
    where = torch.nonzero(off > 1e-3).flatten()
    assert where.min() == 0
    assert where.max() == frames - 1
    assert not any(40 <= frame < frames - case.contract.encoder_lookahead - 1 for frame in where)


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
def test_codes_are_those_of_transformers(case: Case, stages: int) -> None:
    clip = noise(400)
    rest, codes = case.theirs.encoder(clip), []
    for layer in case.theirs.quantizer.layers[:stages]:
        codes.append(layer.encode(rest))
        rest = rest - layer.decode(codes[-1])
    expected = torch.stack(codes, dim=1)
    latents = case.stream("encoder", clip, [])
    (found,) = case.graphs["quantizer_encode"](latents, np.array(stages))
    assert found.shape == (1, stages, 400)
    assert (found != expected.numpy()).mean() <= 0.005
    vectors = case.theirs.quantizer.decode(expected.transpose(0, 1)).transpose(1, 2)
    assert apart(vectors, case.graphs["quantizer_decode"](expected)[0]) < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_streams_cut_anyhow_are_the_whole_clip(case: Case, seed: int) -> None:
    """Bit for bit; the last call of odd seeds is a flush, with nothing new."""
    rng, frames, c = np.random.default_rng(seed), 70, case.contract
    clip = torch.cat([noise(frames), noise(frames).flip(2) * 0.5])
    latents = case.stream("encoder", clip, [])
    for part, x, start in (("encoder", clip, c.encoder_start), ("decoder", latents, c.decoder_start)):
        within = np.sort(rng.choice(np.arange(start + 1, frames), 9, replace=False))
        cuts = [start, *within] + [frames] * (seed % 2)
        assert np.array_equal(case.stream(part, x, cuts), case.stream(part, x, []))


def test_calls_hold_back_what_the_contract_says(case: Case) -> None:
    c = case.contract
    state = np.zeros((1, case.ours.encoder.state_size), np.float32)
    for frames, size in ((c.encoder_start, 1), (3, 3), (0, c.encoder_lookahead)):
        audio = np.zeros((1, 1, frames * FRAME), np.float32)
        latents, state = case.graphs["encoder"](audio, state, np.array(int(frames == 0)))
        assert latents.shape[1] == size
    first = c.decoder_start * FRAME - c.decoder_lookahead
    assert 0 < first <= FRAME
    state = np.zeros((1, case.ours.decoder.state_size), np.float32)
    for frames, size in ((c.decoder_start, first), (2, 2 * FRAME), (0, c.decoder_lookahead)):
        rows = np.zeros((1, frames, c.latent_dim), np.float32)
        samples, state = case.graphs["decoder"](rows, state, np.array(int(frames == 0)))
        assert samples.shape[2] == size


def test_torch_streams_as_the_graphs_do(case: Case) -> None:
    start, clip = case.contract.encoder_start, noise(40)
    state, out = case.ours.encoder.zero_state(1), []
    for piece, last in ((clip[..., : start * FRAME], 0), (clip[..., start * FRAME :], 0), (clip[..., :0], 1)):
        y, state = case.ours.encoder(piece, state, torch.tensor(last))
        out.append(y)
    assert apart(case.ours.encode_latents(clip), torch.cat(out, dim=1)) < 1e-5


def test_rows_of_a_batch_are_alone(case: Case) -> None:
    clips = torch.cat([noise(30), noise(30).flip(2) * 0.5, torch.zeros(1, 1, 30 * FRAME)])
    cuts = [case.contract.encoder_start]
    latents = case.stream("encoder", clips, cuts)
    audio = case.stream("decoder", latents, [case.contract.decoder_start])
    for i in range(3):
        row = slice(i, i + 1)
        assert np.array_equal(latents[row], case.stream("encoder", clips[row], cuts))
        assert np.array_equal(audio[row], case.stream("decoder", latents[row], [case.contract.decoder_start]))


def test_a_changed_code_and_a_dropped_state_are_heard(case: Case) -> None:
    """Negative controls."""
    latents = case.ours.encode_latents(noise(40))
    codes = case.ours.quantizer.encode(latents, STAGES)
    spoiled = codes.clone()
    spoiled[0, 0, 20] ^= 1
    sound = [case.stream("decoder", case.graphs["quantizer_decode"](c)[0], []) for c in (codes, spoiled)]
    assert apart(*sound) > 1e-3
    for part, x, start, size in (
        ("encoder", noise(40), case.contract.encoder_start, FRAME),
        ("decoder", latents, case.contract.decoder_start, 1),
    ):
        run, axis = case.graphs[part], 2 if part == "encoder" else 1
        begin, rest = np.split(x.numpy(), [start * size], axis=axis)
        _, state = run(begin, np.zeros((1, getattr(case.ours, part).state_size), np.float32), np.array(0))
        lost = np.concatenate([state[:, :1], np.zeros_like(state[:, 1:])], axis=1)  # the flag is kept
        assert apart(*(run(rest, s, np.array(1))[0] for s in (state, lost))) > 1e-3


def test_spellings_of_weight_norm_give_the_same_codec(case: Case) -> None:
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in case.theirs.state_dict().items()
    }
    start: encodec.Start = "exact" if case.theirs.config.pad_mode == "reflect" else "zero"
    other = encodec.from_transformers(case.theirs.config.to_dict(), Weights(older, "older"), start=start)
    assert other.contract == case.contract
    for (name, a), (also, b) in zip(case.ours.state_dict().items(), other.state_dict().items(), strict=True):
        assert name == also
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_channels": 2}, "audio_channels = 2 is not adapted; the nearest that is, the symmetric model, has 1"),
        ({"normalize": True}, "normalize = True"),
        ({"chunk_length_s": 1.0}, "chunk_length_s = 1.0"),
        ({"pad_mode": "replicate"}, "pad_mode 'replicate'"),
        ({"kernel_size": 6}, "kernel_size = 6 is not adapted, only odd ones from 1"),
        ({"residual_kernel_size": 1}, "residual_kernel_size = 1 is not adapted, only odd ones from 3"),
        ({"num_filters": 4}, r"encoder.layers.0.conv.parametrizations.weight.original1 is \[8, 1, 7\], expected"),
        ({"use_conv_shortcut": True}, "lacks the tensor encoder.layers.1.shortcut"),
        ({"target_bandwidths": [KBPS * 5 + 0.01]}, "tensors belong to no part of the model, first quantizer.layers.5"),
    ],
)
def test_what_is_not_adapted_or_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    model = small_model(**KINDS["identity"])
    with pytest.raises(CheckpointError, match=message) as caught:
        encodec.from_transformers(model.config.to_dict() | changes, Weights(model.state_dict(), "file"))
    assert "\n" not in str(caught.value)
