"""DAC, from other people's names to graphs, against transformers in torch and in onnxruntime.

Random weights prove nothing by themselves: each stage's codebook is drawn from what the stages before it left, its
output projection shrunk, and the fall of the residual is asserted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from edgecodec.errors import CheckpointError
from edgecodec_export.adapters import dac
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.weights import Weights
from edgecodec_export.audio import synthetic_voice
from edgecodec_export.fp16 import round_to_fp16, store_fp16
from streamed import Run, Streamed, apart

transformers = pytest.importorskip("transformers")

STAGES = 12
RATIOS = {"even": [2, 4, 8], "five": [4, 5]}  # as at 16 and 44.1 kHz, and as at 24 kHz: strides of 5


def voice(frames: int, frame_size: int) -> torch.Tensor:
    return torch.from_numpy(synthetic_voice((frames + 1) * frame_size / 16_000, 16_000)[: frames * frame_size])


def small_model(ratios: list[int], seed: int = 0) -> Any:
    """A DacModel whose latents have size, and whose codebooks fit what they are searched for."""
    torch.manual_seed(seed)
    sizes = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "codebook_size": 64, "codebook_dim": 4}
    config = transformers.DacConfig(**sizes, downsampling_ratios=ratios, n_codebooks=STAGES)
    model = transformers.DacModel(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            parameter.copy_(0.5 + torch.rand_like(parameter))
        elif ".conv" in name and name.endswith("weight"):  # of the size that keeps the signal's
            parameter.copy_(torch.randn_like(parameter) * 0.7 / math.sqrt(parameter[0].numel()))
    clip = voice(400, math.prod(ratios))[None, None]
    last = model.encoder.conv2
    last.weight /= model.encoder(clip).std(2).mean()
    last.bias -= model.encoder(clip).mean((0, 2))
    rest = model.encoder(clip)
    for layer in model.quantizer.quantizers:
        # The best subspace of what is left, so that each stage takes something off.
        axes = torch.linalg.svd(rest[0] - rest[0].mean(1, keepdim=True), full_matrices=False)[0][
            :, : sizes["codebook_dim"]
        ]
        layer.in_proj.weight.copy_(axes.T[..., None])
        layer.out_proj.weight.copy_(axes[..., None] * 0.9)
        layer.out_proj.bias.copy_(0.01 * torch.randn(len(axes)))
        drawn = layer.in_proj(rest)[0].T
        layer.codebook.weight.copy_(drawn[torch.randperm(len(drawn))[: sizes["codebook_size"]]])
        rest = rest - layer(rest)[0]
    tanh, model.decoder.tanh = model.decoder.tanh, torch.nn.Identity()  # it hides differences where it saturates
    model.decoder.conv2.weight *= 0.3 / model.decoder(model.encoder(clip)).std()
    model.decoder.tanh = tanh
    return model


def adapted(model: Any) -> AdaptedCodec:
    return dac.from_transformers(model.config.to_dict(), Weights(model.state_dict(), "transformers"))


class Case(Streamed):
    """One small model of theirs, ours, and its graphs in onnxruntime."""

    def __init__(self, ratios: list[int]) -> None:
        self.theirs = small_model(ratios)
        super().__init__(adapted(self.theirs))
        self.missing = 4 if 5 in ratios else 0  # samples at the end: one of a stride of 5, times the stride after it

    def clip(self, frames: int) -> torch.Tensor:
        return voice(frames, self.contract.frame_size)[None, None]


@pytest.fixture(scope="module", params=RATIOS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(RATIOS[request.param])


def test_residual_falls_at_every_stage(case: Case) -> None:
    latents = case.ours.encode_latents(case.clip(300))
    energy = [float(latents.square().mean())]
    for n in range(1, STAGES + 1):
        left = latents - case.ours.quantizer.decode(case.ours.quantizer.encode(latents, n))
        energy.append(float(left.square().mean()))
    falls = [after / before for before, after in itertools.pairwise(energy)]
    assert max(falls) < 0.93, falls
    assert energy[-1] > 1e-4 * energy[0]  # and something is left: no stage quantizes rounding noise


@pytest.mark.parametrize("frames", [1, 2, -1, 0, 60])
def test_latents_and_audio_are_those_of_transformers(case: Case, frames: int) -> None:
    """In torch and in onnxruntime, for clips around the least first call too."""
    for part, start in (("encoder", case.contract.encoder_start), ("decoder", case.contract.decoder_start)):
        clip = case.clip(frames if frames > 0 else start + frames)
        latents = case.theirs.encoder(clip).transpose(1, 2)
        if part == "encoder":
            assert apart(latents, case.ours.encode_latents(clip)) < 1e-4
            assert apart(latents, case.stream(part, clip, [])) < 1e-4
            continue
        expected = case.theirs.decoder(latents.transpose(1, 2))
        found, streamed = case.ours.decode_latents(latents), case.stream(part, latents, [])
        samples = expected.shape[2]
        assert found.shape[2] == streamed.shape[2] == clip.shape[2]
        assert samples == clip.shape[2] - case.missing
        assert apart(expected, found[..., :samples]) < 1e-4
        assert apart(expected, streamed[..., :samples]) < 1e-4
        assert not streamed[..., samples:].any()


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
def test_codes_are_those_of_transformers(case: Case, stages: int) -> None:
    latents = case.theirs.encoder(case.clip(300))
    expected = case.theirs.quantizer(latents, stages)[1]
    rows = latents.transpose(1, 2).contiguous()
    (found,) = case.graphs["quantizer_encode"](rows, np.array(stages))
    assert found.shape == (1, stages, 300)
    assert (found != expected.numpy()).mean() <= 0.005
    assert (case.ours.quantizer.encode(rows, stages) != expected).float().mean() <= 0.005
    vectors = case.theirs.quantizer.from_codes(expected)[0].transpose(1, 2)
    assert apart(vectors, case.ours.quantizer.decode(expected)) < 1e-5
    assert apart(vectors, case.graphs["quantizer_decode"](expected)[0]) < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_streams_cut_anyhow_are_the_whole_clip(case: Case, seed: int) -> None:
    """Bit for bit; the last call of odd seeds is a flush, with nothing new."""
    rng, frames = np.random.default_rng(seed), 70
    clip = case.clip(frames)
    latents = case.ours.encode_latents(clip)
    for part, x, start in (
        ("encoder", clip, case.contract.encoder_start),
        ("decoder", latents, case.contract.decoder_start),
    ):
        within = rng.choice(np.arange(start + 1, frames), 9, replace=False)  # only the last call may be empty
        cuts = [start, *sorted(within)] + [frames] * (seed % 2)
        assert np.array_equal(case.stream(part, x, cuts), case.stream(part, x, []))


def test_first_and_later_calls_hold_back_what_the_contract_says(case: Case) -> None:
    c = case.contract
    audio = case.clip(c.encoder_start + 3).numpy()
    state = np.zeros((1, case.ours.encoder.state_size), np.float32)
    for part, size in ((c.encoder_start, 1), (3, 3), (0, c.encoder_lookahead)):
        piece, audio = audio[..., : part * c.frame_size], audio[..., part * c.frame_size :]
        latents, state = case.graphs["encoder"](piece, state, np.array(int(part == 0)))
        assert latents.shape[1] == size
    first = c.decoder_start * c.frame_size - c.decoder_lookahead
    assert 0 < first <= c.frame_size
    rows = np.zeros((1, c.decoder_start + 2, c.latent_dim), np.float32)
    state = np.zeros((1, case.ours.decoder.state_size), np.float32)
    for part, size in ((c.decoder_start, first), (2, 2 * c.frame_size), (0, c.decoder_lookahead)):
        piece, rows = rows[:, :part], rows[:, part:]
        samples, state = case.graphs["decoder"](piece, state, np.array(int(part == 0)))
        assert samples.shape[2] == size


def test_torch_streams_as_the_graphs_do(case: Case) -> None:
    start, size = case.contract.encoder_start, case.contract.frame_size
    clip = case.clip(40)
    state, out = case.ours.encoder.zero_state(1), []
    for piece, last in ((clip[..., : start * size], 0), (clip[..., start * size :], 0), (clip[..., :0], 1)):
        y, state = case.ours.encoder(piece, state, torch.tensor(last))
        out.append(y)
    assert apart(case.ours.encode_latents(clip), torch.cat(out, dim=1)) < 1e-6


def test_a_dropped_state_is_heard(case: Case) -> None:
    """Negative control: without its state a stream is another one."""
    start, size = case.contract.encoder_start, case.contract.frame_size
    clip = case.clip(40)
    cut = np.split(clip.numpy(), [start * size], axis=2)
    zeros = np.zeros((1, case.ours.encoder.state_size), np.float32)
    _, state = case.graphs["encoder"](cut[0], zeros, np.array(0))
    lost = np.concatenate([state[:, :1], zeros[:, 1:]], axis=1)  # the flag is kept
    expected, found = (case.graphs["encoder"](cut[1], s, np.array(1))[0] for s in (state, lost))
    assert apart(expected, found) > 1e-2


def test_a_changed_code_is_heard(case: Case) -> None:
    """Negative control."""
    codes = case.ours.quantizer.encode(case.ours.encode_latents(case.clip(40)), STAGES)
    spoiled = codes.clone()
    spoiled[0, 0, 20] ^= 1
    sound = [case.stream("decoder", case.ours.quantizer.decode(c), []) for c in (codes, spoiled)]
    assert apart(*sound) > 1e-3


def test_rows_of_a_batch_are_alone(case: Case) -> None:
    clips = torch.cat([case.clip(40), case.clip(40).flip(2) * 0.5, torch.zeros_like(case.clip(40))])
    cuts = [case.contract.encoder_start, 30]
    both = case.stream("encoder", clips, cuts)
    latents = torch.from_numpy(both)
    codes = case.graphs["quantizer_encode"](latents, np.array(STAGES))[0]
    sound = case.stream("decoder", latents, [case.contract.decoder_start, 30])
    for i in range(3):
        assert np.array_equal(both[i : i + 1], case.stream("encoder", clips[i : i + 1], cuts))
        assert np.array_equal(
            codes[i : i + 1], case.graphs["quantizer_encode"](latents[i : i + 1], np.array(STAGES))[0]
        )
        alone = case.stream("decoder", latents[i : i + 1], [case.contract.decoder_start, 30])
        assert np.array_equal(sound[i : i + 1], alone)


def test_codes_do_not_depend_on_the_cuts(case: Case) -> None:
    rows = case.ours.encode_latents(case.clip(200)).numpy()
    run = case.graphs["quantizer_encode"]
    (whole,) = run(rows, np.array(STAGES))
    pieces = [run(piece, np.array(STAGES))[0] for piece in np.split(rows, [1, 2, 3, 10, 77], axis=1)]
    assert np.array_equal(np.concatenate(pieces, axis=2), whole)


def test_fp16_matrices_are_those_of_the_rounded_quantizer(case: Case, runner: Callable[[Any], Run]) -> None:
    quantizer = case.ours.quantizer.rounded(round_to_fp16)
    graphs = {name: store_fp16(graph) for name, graph in quantizer.graphs().items()}
    rows = case.ours.encode_latents(case.clip(100))
    codes = quantizer.encode(rows, STAGES)
    (found,) = runner(graphs["quantizer_encode"])(rows, np.array(STAGES))
    assert (found != codes.numpy()).mean() <= 0.005
    assert apart(quantizer.decode(codes), runner(graphs["quantizer_decode"])(codes)[0]) < 1e-5
    assert len(graphs["quantizer_encode"].SerializeToString()) < len(
        case.models["quantizer_encode"].SerializeToString()
    )
    assert quantizer.macs() == case.ours.quantizer.macs() > 0


def original_names(tensors: dict[str, torch.Tensor], blocks: int) -> dict[str, torch.Tensor]:
    """As the descript-audio-codec package calls them: by the position of each layer."""
    places = {"conv1": "0", "snake1": str(blocks + 1), "conv2": str(blocks + 2)}
    unit = {"snake1": "0", "conv1": "1", "snake2": "2", "conv2": "3"}
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] != "quantizer":
            side, inner = parts[0], {"encoder": "block", "decoder": "model"}[parts[0]]
            if parts[1] == "block":
                shift = 0 if side == "encoder" else 2
                own = {"snake1": "3", "conv1": "4"} if side == "encoder" else {"snake1": "0", "conv_t1": "1"}
                place = [inner, str(int(parts[2]) + 1), "block"]
                if parts[3].startswith("res_unit"):
                    place += [str(int(parts[3][-1]) - 1 + shift), "block", unit[parts[4]]]
                    rest = parts[5:]
                else:
                    place, rest = [*place, own[parts[3]]], parts[4:]
            else:
                place, rest = [inner, places[parts[1]]], parts[2:]
            name = ".".join([side, *place, *rest])
        renamed[name] = tensor
    return renamed


def normed(tensors: dict[str, torch.Tensor], gain: str, direction: str) -> dict[str, torch.Tensor]:
    """The weights of convolutions as weight normalisation has them."""
    out = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight") and "codebook" not in name:
            prefix = name.removesuffix("weight")
            out[prefix + gain] = torch.linalg.vector_norm(tensor, dim=(1, 2), keepdim=True)
            out[prefix + direction] = 3 * tensor  # only its direction counts
        else:
            out[name] = tensor
    return out


SPELLINGS = {
    "weight_g": ("weight_g", "weight_v"),
    "parametrizations": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
}


@pytest.mark.parametrize("spelling", [*SPELLINGS, "plain"])
@pytest.mark.parametrize("layout", ["transformers", "original"])
def test_all_names_and_spellings_give_the_same_codec(layout: str, spelling: str) -> None:
    model = small_model([2, 5])
    tensors = dict(model.state_dict())
    if spelling != "plain":
        tensors = normed(tensors, *SPELLINGS[spelling])
    mine = adapted(model)
    if layout == "original":
        tensors = original_names(tensors, blocks=2)
        assert "decoder.model.2.block.4.block.0.alpha" in tensors
        assert {"encoder.block.4.bias", "decoder.model.1.block.1.bias"} < tensors.keys()
        kwargs = {
            "encoder_dim": 4,
            "encoder_rates": [2, 5],
            "decoder_dim": 32,
            "decoder_rates": [5, 2],
            "latent_dim": None,
            "n_codebooks": STAGES,
            "codebook_size": 64,
            "codebook_dim": 4,
            "quantizer_dropout": 0.5,
            "sample_rate": 16_000,
        }
        other = dac.from_original(kwargs, Weights(tensors, "original"))
    else:
        other = dac.from_transformers(model.config.to_dict(), Weights(tensors, "other"))
    assert other.contract == mine.contract
    for (name, a), (also, b) in zip(mine.state_dict().items(), other.state_dict().items(), strict=True):
        assert name == also
        assert torch.allclose(a, b, atol=1e-6), name
    rows = torch.randn(1, 50, mine.contract.latent_dim)
    codes = mine.quantizer.encode(rows, STAGES)
    assert (codes != other.quantizer.encode(rows, STAGES)).float().mean() <= 0.005
    assert torch.allclose(mine.quantizer.decode(codes), other.quantizer.decode(codes), atol=1e-5)


@pytest.mark.parametrize(
    ("ratios", "lookahead"), [([2, 4, 8, 8], (8, 4757)), ([2, 4, 5, 8], (8, 3141))], ids=["44.1 kHz", "24 kHz"]
)
def test_lookahead_of_the_published_strides(ratios: list[int], lookahead: tuple[int, int]) -> None:
    sizes = {"encoder_hidden_size": 1, "decoder_hidden_size": 16, "codebook_size": 4, "codebook_dim": 2}
    model = transformers.DacModel(transformers.DacConfig(**sizes, downsampling_ratios=ratios, n_codebooks=1))
    c = adapted(model).contract
    assert (c.encoder_lookahead, c.decoder_lookahead) == lookahead
    assert (c.encoder_start, c.decoder_start) == (9, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_hidden_size": 8, "hidden_size": 32}, r"encoder.conv1.weight is \[4, 1, 7\], expected \[8, 1, 7\]"),
        ({"downsampling_ratios": [2]}, "expected|lacks"),
        ({"downsampling_ratios": [1, 5]}, "must list strides from 2 to 64"),
        ({"downsampling_ratios": "25"}, "must list strides"),
        ({"downsampling_ratios": [2] * 9}, "more than 8"),
        ({"upsampling_ratios": [2, 5]}, "a decoder of strides"),
        ({"n_codebooks": STAGES - 1}, "tensors belong to no part of the model, first quantizer.quantizers.11"),
        ({"n_codebooks": STAGES + 1}, "lacks the tensor quantizer.quantizers.12.in_proj.weight"),
        ({"codebook_dim": [4, 8]}, "codebook_dim must be a whole number"),
        ({"codebook_size": 0}, "codebook_size must be a whole number"),
        ({"decoder_hidden_size": 33}, "cannot be halved"),
        ({"hidden_size": 1 << 17}, "latents must have"),
    ],
)
def test_what_the_tensors_contradict_is_refused(changes: dict[str, Any], message: str) -> None:
    sizes = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "codebook_size": 64, "codebook_dim": 4}
    model = transformers.DacModel(transformers.DacConfig(**sizes, downsampling_ratios=[2, 5], n_codebooks=STAGES))
    config = {k: v for k, v in model.config.to_dict().items() if k != "upsampling_ratios"}
    with pytest.raises(CheckpointError, match=message) as caught:
        dac.from_transformers(config | changes, Weights(model.state_dict(), "file"))
    assert "\n" not in str(caught.value)
