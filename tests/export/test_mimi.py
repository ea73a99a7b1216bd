"""Mimi, of other people's names, against transformers in torch and in onnxruntime.

Random weights prove nothing by themselves: latents are almost constant, and codebooks drawn from residuals leave only
rounding noise to later stages. So what goes into the transformer is centred, codebooks shrink by a stated factor a
stage, and that the residual falls is asserted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from edgecodec.errors import CheckpointError, ExportError
from edgecodec_export.adapters import mimi
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.graphs import adapted_graphs
from edgecodec_export.adapters.int8_layers import use_int8
from edgecodec_export.adapters.transformer import halves_of_pairs
from edgecodec_export.adapters.weights import Weights
from numpy.typing import NDArray
from safetensors.torch import load_file
from streamed import in_onnxruntime

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_filters": 4,
    "upsampling_ratios": [4, 3],
    "codebook_size": 64,
    "codebook_dim": 16,
    "vector_quantization_hidden_dimension": 16,
    "num_quantizers": 9,
    "upsample_groups": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "sliding_window": 10,  # positions, two a frame
    "layer_scale_initial_scale": 0.5,  # else the transformer would hardly be heard
}
FRAME, STAGES = 24, 9
SHRUNK = 0.6  # codebook entries, of the residuals that they are drawn from: else later stages see rounding noise
CLOSE = 1e-4  # of the largest value


def noise(frames: int, batch: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(batch, 1, frames * FRAME, generator=torch.Generator().manual_seed(frames))


def random_model(**changes: Any) -> Any:
    """A MimiModel whose latents and audio vary, and whose codebooks fit the latents."""
    torch.manual_seed(0)
    model = transformers.MimiModel(transformers.MimiConfig(**SIZES | changes)).eval().requires_grad_(False)
    for name, weight in model.named_parameters():  # else attention is nearly uniform, and no phase matters
        if re.search(r"transformer\.layers\.\d+\.(self_attn|mlp)\..*weight", name):
            weight *= 1.2 / (weight.std() * weight.shape[1] ** 0.5)
    spread(model.encoder.encoder_seanet.layers[-1].conv, lambda: model.encoder.encoder_seanet(noise(200)))
    latents = model.encoder(noise(200)).latents
    for group in (
        model.quantizer.semantic_residual_vector_quantizer,
        model.quantizer.acoustic_residual_vector_quantizer,
    ):
        rest = group.input_proj(latents)[0].T
        for layer in group.layers:
            book = layer.codebook
            book.cluster_usage.uniform_(0.5, 3.0)
            book.cluster_usage[3] = 0.0  # never chosen: divided by the least that is allowed
            drawn = SHRUNK * rest[torch.randperm(len(rest))[: len(book.embed_sum)]]
            book.embed_sum.copy_(drawn * book.cluster_usage.clamp(min=1e-5)[:, None])
            rest = rest - layer.decode(layer.encode(rest.T[None]))[0].T
    spread(model.decoder.decoder_seanet.layers[-1].conv, lambda: model.decoder(latents).audio_values)
    return model


def spread(last: Any, output: Callable[[], torch.Tensor]) -> None:
    """Centre a last layer's output, which is nearly constant with random weights, and give it size."""
    last.weight *= 1.0 / output().std(dim=2).mean()
    last.bias -= output().mean((0, 2))


def adapted(model: Any, tensors: dict[str, torch.Tensor] | None = None) -> AdaptedCodec:
    return mimi.from_transformers(model.config.to_dict(), Weights(tensors or model.state_dict(), "theirs"))


class Graphs:
    """The graphs of a codec in onnxruntime, one frame a call."""

    def __init__(self, codec: AdaptedCodec) -> None:
        self.codec = codec
        self.protos = adapted_graphs(codec)
        self.run = {name: in_onnxruntime(graph) for name, graph in self.protos.items()}

    def stream(self, part: str, x: Any, *, forget_before: int = -1) -> NDArray[np.float32]:
        """The whole of x through the encoder or decoder; the state is lost before one frame."""
        module, axis = (self.codec.encoder, 2) if part == "encoder" else (self.codec.decoder, 1)
        x = np.asarray(x)
        zero = module.zero_state(len(x)).numpy()
        state, out = zero, []
        for i, frame in enumerate(np.split(x, x.shape[axis] // (FRAME if axis == 2 else 1), axis)):
            y, state = self.run[part](frame, zero if i == forget_before else state)
            out.append(y)
        return np.concatenate(out, axis=3 - axis)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return random_model()


@pytest.fixture(scope="module")
def ours(theirs: Any) -> AdaptedCodec:
    return adapted(theirs)


@pytest.fixture(scope="module")
def graphs(ours: AdaptedCodec) -> Graphs:
    return Graphs(ours)


def far(found: Any, expected: torch.Tensor) -> float:
    """The largest difference, of the largest value."""
    assert found.shape == expected.shape
    return float(np.abs(np.asarray(found) - expected.numpy()).max() / expected.abs().max())


def test_contract(ours: AdaptedCodec, graphs: Graphs) -> None:
    c = ours.contract
    assert (c.sample_rate, c.frame_size, c.latent_dim, c.codebook_size) == (24_000, FRAME, 32, 64)
    assert (c.max_stages, c.call_frames) == (STAGES, 1)
    encoder, decoder = graphs.protos["encoder"].graph, graphs.protos["decoder"].graph
    sizes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*encoder.input,)]
    assert sizes == [["B", 1, FRAME], ["B", ours.encoder.state_size]]
    assert [d.dim_value for d in decoder.output[0].type.tensor_type.shape.dim][1:] == [1, FRAME]


def test_residual_falls_at_every_stage_of_both_groups(ours: AdaptedCodec) -> None:
    latents = ours.encode_latents(noise(300))
    assert float(latents.std(dim=1).mean()) > 0.5 * float(latents.square().mean().sqrt())  # and they do vary
    quantizer = ours.quantizer
    assert isinstance(quantizer, mimi.GroupedQuantizer)
    lines = iter(quantizer.encode(latents, STAGES).unbind(1))
    for group in quantizer.groups():
        residual = latents @ group.inside
        energy = [float(residual.square().mean())]
        for book in group.codebooks:
            residual = residual - book[next(lines)]
            energy.append(float(residual.square().mean()))
        assert max(after / before for before, after in pairwise(energy)) < 0.9, energy
        assert energy[-1] > 1e-3 * energy[0]  # something is left: no stage quantizes rounding noise


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 6, 60])
def test_clips_of_any_length_are_the_originals(theirs: Any, ours: AdaptedCodec, graphs: Graphs, frames: int) -> None:
    clip = noise(frames, batch=2)
    latents = theirs.encoder(clip).latents.transpose(1, 2)
    assert far(ours.encode_latents(clip), latents) < CLOSE
    assert far(graphs.stream("encoder", clip), latents) < CLOSE
    audio = theirs.decoder(latents.transpose(1, 2)).audio_values
    assert far(ours.decode_latents(latents), audio) < CLOSE
    assert far(graphs.stream("decoder", latents), audio) < CLOSE


def test_past_the_published_window() -> None:
    """280 positions, of which a query sees 250."""
    small = {"num_filters": 2, "num_hidden_layers": 1, "num_quantizers": 2}
    model = random_model(sliding_window=250, **small)
    ours = adapted(model)
    graphs = Graphs(ours)
    clip = noise(140)
    latents = model.encoder(clip).latents.transpose(1, 2)
    audio = model.decoder(latents.transpose(1, 2)).audio_values
    assert far(ours.encode_latents(clip), latents) < CLOSE
    assert far(graphs.stream("encoder", clip), latents) < CLOSE
    assert far(graphs.stream("decoder", latents), audio) < CLOSE
    for near in (249, 251):  # negative control: the window is seen, to the position
        config = model.config.to_dict() | {"sliding_window": near}
        other = mimi.from_transformers(config, Weights(model.state_dict(), "theirs"))
        assert far(other.encode_latents(clip), latents) > CLOSE
        assert far(other.encode_latents(clip)[:, :124], latents[:, :124]) < CLOSE


def test_streams_have_no_end(ours: AdaptedCodec) -> None:
    """Nothing in the state grows: count and phases stay in their ranges, and later frames are as the first ones."""
    state, clip = ours.encoder.zero_state(1), noise(40)
    assert isinstance(ours.encoder, mimi.MimiEncoder)
    transformer, kept = ours.encoder.transformer, ours.encoder.kept
    for _ in range(10):
        _, state = ours.encoder(clip, state)
        count, *turns = state[0, kept : kept + transformer.clock_size].tolist()
        assert transformer.slots <= count < 2 * transformer.slots
        assert all(0 <= turn < 1 for turn in turns)
    again, _ = ours.encoder(clip, state)
    _, first = ours.encoder(clip, ours.encoder.zero_state(1))
    assert far(again, ours.encoder(clip, first)[0]) < CLOSE


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
def test_codes_are_those_of_the_original(theirs: Any, ours: AdaptedCodec, graphs: Graphs, stages: int) -> None:
    clip = noise(150, batch=2)
    expected = theirs.encode(clip, num_quantizers=stages).audio_codes.numpy()
    latents = graphs.stream("encoder", clip)
    (codes,) = graphs.run["quantizer_encode"](latents, np.array(stages))
    assert codes.shape == expected.shape == (2, stages, 150)
    assert (codes != expected).mean() <= 0.005  # near ties
    assert (ours.quantizer.encode(ours.encode_latents(clip), stages).numpy() != expected).mean() <= 0.005
    entries = theirs.quantizer.decode(torch.from_numpy(codes)).transpose(1, 2)
    assert far(ours.quantizer.decode(torch.from_numpy(codes)), entries) < CLOSE
    assert far(graphs.run["quantizer_decode"](codes)[0], entries) < CLOSE
    (one,) = graphs.run["quantizer_encode"](latents[:1, 7:8], np.array(stages))
    assert np.array_equal(one, codes[:1, :, 7:8])


def test_several_semantic_stages() -> None:
    """Of which fewer may be sent than there are."""
    model = random_model(num_semantic_quantizers=3, num_quantizers=5)
    quantizer = adapted(model).quantizer
    run = {name: in_onnxruntime(graph) for name, graph in quantizer.graphs().items()}
    latents = model.encoder(noise(30)).latents
    expected = model.quantizer.encode(latents).transpose(0, 1)
    for stages in range(1, 6):
        (codes,) = run["quantizer_encode"](latents.transpose(1, 2), np.array(stages))
        assert (codes != expected[:, :stages].numpy()).mean() <= 0.005
        entries = model.quantizer.decode(torch.from_numpy(codes)) if stages >= 3 else None
        (found,) = run["quantizer_decode"](codes)
        own = quantizer.decode(torch.from_numpy(codes))
        assert far(found, own) < CLOSE
        assert entries is None or far(found, entries.transpose(1, 2)) < CLOSE


def test_rows_of_a_batch_are_alone(ours: AdaptedCodec, graphs: Graphs) -> None:
    clips = noise(30, batch=3)
    both = graphs.stream("encoder", clips)
    sound = graphs.stream("decoder", both)
    for i in range(3):
        assert far(both[i : i + 1], torch.from_numpy(graphs.stream("encoder", clips[i : i + 1]))) < 1e-5
        assert far(sound[i : i + 1], torch.from_numpy(graphs.stream("decoder", both[i : i + 1]))) < 1e-5


def test_negative_controls(theirs: Any, ours: AdaptedCodec, graphs: Graphs) -> None:
    """A lost state and a single other code are seen."""
    clip = noise(40)
    latents = theirs.encoder(clip).latents.transpose(1, 2)
    audio = theirs.decoder(latents.transpose(1, 2)).audio_values
    assert far(graphs.stream("encoder", clip, forget_before=20), latents) > 10 * CLOSE
    assert far(graphs.stream("decoder", latents, forget_before=20), audio) > 10 * CLOSE
    codes = theirs.encode(clip).audio_codes
    expected = theirs.decode(codes).audio_values
    decoded = graphs.run["quantizer_decode"](codes)[0]
    assert far(graphs.stream("decoder", decoded), expected) < CLOSE
    codes[0, STAGES - 1, 20] ^= 1
    spoiled = graphs.run["quantizer_decode"](codes)[0]
    assert far(graphs.stream("decoder", spoiled), expected) > 10 * CLOSE


@pytest.mark.parametrize("lost", ["others", "clock", "rings"])
def test_every_part_of_the_state_matters(theirs: Any, ours: AdaptedCodec, lost: str) -> None:
    clip = noise(20)
    assert isinstance(ours.encoder, mimi.MimiEncoder)
    clock, rings = ours.encoder.kept, ours.encoder.kept + ours.encoder.transformer.clock_size
    span = {"others": slice(0, clock), "clock": slice(clock, rings), "rings": slice(rings, None)}[lost]
    first, state = ours.encoder(clip[..., : 10 * FRAME], ours.encoder.zero_state(1))
    state[:, span] = 0
    second, _ = ours.encoder(clip[..., 10 * FRAME :], state)
    assert far(torch.cat([first, second], dim=1), theirs.encoder(clip).latents.transpose(1, 2)) > 10 * CLOSE


def kyutai_names(tensors: dict[str, torch.Tensor], heads: int) -> dict[str, torch.Tensor]:
    """Published tensors as Kyutai's own files call and arrange them."""
    renamed: dict[str, Any] = {}
    for name in sorted(tensors, key=lambda name: [name.find(f".{p}_proj.") for p in "qkv"], reverse=True):  # q, k, v
        new, tensor = name, tensors[name]
        new = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", new)
        kind = "convtr.convtr" if tensor.ndim and re.match(r"decoder\.model\.(2|5)\.conv\.", new) else "conv.conv"
        new = re.sub(r"^((?:encoder|decoder)\.model.*)\.conv\.(?=[^.]+$)", rf"\1.{kind}.", new)
        new = new.replace("downsample.conv.", "downsample.conv.conv.conv.")
        new = new.replace("upsample.conv.", "upsample.convtr.convtr.convtr.")
        new = re.sub(r"^(.*_transformer)\.layers", r"\1.transformer.layers", new)
        for ours, kyutai in (
            ("input_layernorm", "norm1"),
            ("post_attention_layernorm", "norm2"),
            ("mlp.fc1", "linear1"),
            ("mlp.fc2", "linear2"),
            ("o_proj", "out_proj"),
            ("self_attn_layer_scale", "layer_scale_1"),
            ("mlp_layer_scale", "layer_scale_2"),
        ):
            new = new.replace(ours, kyutai)
        for ours, kyutai in (("semantic", "first"), ("acoustic", "rest")):
            new = new.replace(f"{ours}_residual_vector_quantizer.layers", f"rvq_{kyutai}.vq.layers")
            new = new.replace(f"{ours}_residual_vector_quantizer", f"rvq_{kyutai}")
        new = new.replace(".codebook.embed_sum", "._codebook.embedding_sum").replace(".codebook.", "._codebook.")
        new = new.replace("_codebook.initialized", "_codebook._initialized")
        if match := re.fullmatch(r"(.*self_attn)\.([qkv])_proj\.weight", new):
            if match[2] in "qk":  # neighbours are turned together
                tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
            renamed.setdefault(f"{match[1]}.in_proj_weight", []).append(tensor)
        else:
            renamed[new] = tensor
    return {name: torch.cat(t) if isinstance(t, list) else t for name, t in renamed.items()}


@pytest.fixture(scope="module")
def published(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The tensors of a file that transformers writes: the names of kyutai/mimi."""
    folder = tmp_path_factory.mktemp("mimi")
    theirs.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def assert_same(found: AdaptedCodec, expected: AdaptedCodec) -> None:
    assert found.contract == expected.contract
    for (name, a), (other, b) in zip(found.state_dict().items(), expected.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b), name


def test_published_names_give_the_same_codec(
    theirs: Any, ours: AdaptedCodec, published: dict[str, torch.Tensor]
) -> None:
    assert {"encoder.layers.0.conv.weight", "downsample.conv.weight"} < published.keys()
    assert "decoder_transformer.layers.1.self_attn.q_proj.weight" in published
    assert_same(adapted(theirs, published), ours)


@pytest.mark.parametrize("spelling", ["in_proj_weight", "in_projs.0.weight"])
def test_kyutais_names_give_the_same_codec(
    theirs: Any, ours: AdaptedCodec, published: dict[str, torch.Tensor], spelling: str
) -> None:
    tensors = kyutai_names(published, SIZES["num_attention_heads"])
    tensors = {name.replace("in_proj_weight", spelling): tensor for name, tensor in tensors.items()}
    for name in (
        "encoder.model.1.block.3.conv.conv.bias",
        "decoder.model.2.convtr.convtr.weight",
        f"encoder_transformer.transformer.layers.0.self_attn.{spelling}",
        "upsample.convtr.convtr.convtr.weight",
        "quantizer.rvq_rest.vq.layers.7._codebook.embedding_sum",
        "quantizer.rvq_first.input_proj.weight",
    ):
        assert name in tensors
    assert_same(mimi.from_original(Weights(tensors, "kyutai"), theirs.config.to_dict()), ours)


def test_permuted_rows_turn_as_neighbours_do() -> None:
    """Scores of queries and keys that are turned in pairs of neighbours, as Kyutai's are, written out as products."""
    heads, width, positions = 2, 6, 5
    rows, x = torch.randn(heads * width, 7), torch.randn(positions, 7)
    angles = torch.arange(positions)[:, None] * torch.tensor([1.0, 0.3, 0.02])
    plain = (x @ rows.T).reshape(positions, heads, width // 2, 2)
    pairs = torch.view_as_complex(plain) * torch.polar(torch.ones_like(angles), angles)[:, None]
    expected = torch.einsum("thd,shd->hts", pairs, pairs.conj()).real
    halves = (x @ halves_of_pairs(rows, heads).T).reshape(positions, heads, width).transpose(0, 1)
    a, b = halves.chunk(2, dim=2)
    turned = torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=2)
    assert torch.allclose(turned @ turned.transpose(1, 2), expected, atol=1e-4)
    assert not torch.equal(halves_of_pairs(rows, heads), rows)


def test_original_files_are_of_the_published_size() -> None:
    with pytest.raises(CheckpointError, match=r"lacks the tensor encoder.layers.0.conv.weight \[64, 1, 7\]"):
        mimi.from_original(Weights({"quantizer.rvq_first.x": torch.zeros(1)}, "file"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_causal_conv": False}, "use_causal_conv = False is not adapted"),
        ({"audio_channels": 2}, "audio_channels = 2"),
        ({"hidden_act": "silu"}, "hidden_act = 'silu'"),
        ({"num_key_value_heads": 2}, "num_key_value_heads = 2 is not adapted"),
        ({"upsample_groups": 1}, "upsample_groups = 1"),
        ({"vector_quantization_hidden_dimension": 32, "codebook_dim": 32}, "without projections"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "rotary phases"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rotary phases"),
        ({"frame_rate": 700.0}, "do not fit 24000 Hz"),
        ({"frame_rate": "x"}, "must be positive numbers"),
        ({"sliding_window": 2}, "a window of 2"),
        ({"upsampling_ratios": [0]}, "no whole number in range"),
        ({"num_hidden_layers": 1}, r"belong to no part of the model, first decoder_transformer.layers.1"),
        ({"num_hidden_layers": 3}, r"lacks the tensor encoder_transformer.layers.2"),
        ({"num_filters": 8}, r"encoder.layers.0.conv.weight is \[4, 1, 7\], expected \[8, 1, 7\]"),
        ({"num_semantic_quantizers": 9}, "9 semantic of 9 quantizers"),
        ({"num_semantic_quantizers": 2}, "lacks the tensor quantizer.semantic_residual_vector_quantizer.layers.1"),
    ],
)
def test_what_the_tensors_contradict_is_refused(theirs: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        mimi.from_transformers(theirs.config.to_dict() | changes, Weights(theirs.state_dict(), "file"))
    assert "\n" not in str(caught.value)


def test_int8_products_of_the_transformers() -> None:
    """The graph computes what the rounded torch model does, and that stays near the exact one."""
    model = random_model(num_hidden_layers=1, num_filters=2, num_quantizers=2)
    exact, ours = adapted(model), adapted(model)
    with pytest.raises(ExportError, match="no layer that is large enough"):
        use_int8(ours, [noise(30)[0].numpy()])
    with pytest.raises(ExportError, match="there is none"):
        use_int8(ours, [], least=1024)
    use_int8(ours, [noise(30)[0].numpy()], least=1024)
    graphs = Graphs(ours)
    kinds = [node.op_type for node in graphs.protos["encoder"].graph.node]
    assert kinds.count("QuantizeLinear") == 4  # in and out of attention, and of the MLP
    clip = noise(60)
    latents = ours.encode_latents(clip)
    assert 1e-4 < far(latents, exact.encode_latents(clip)) < 0.1  # it is rounded, and no more than that
    # A sum that float32 rounds otherwise may take another step of 8 bits: most frames are equal, none is far away.
    found = graphs.stream("encoder", clip)
    assert np.median(np.abs(found - latents.numpy())) < CLOSE * float(latents.abs().max())
    assert far(found, latents) < 0.02
    assert far(graphs.stream("decoder", latents), ours.decode_latents(latents)) < 0.02
