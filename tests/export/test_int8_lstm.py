"""int8 in LSTMs and causal convolutions: what the rounding does, and that torch and onnxruntime do the same."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import onnx
import pytest
import soundfile
import torch
from edgecodec.commands.main import app
from edgecodec.errors import ExportError
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.graphs import TRANSLATIONS, adapted_graphs
from edgecodec_export.adapters.int8_layers import Int8Conv, use_int8, windows
from edgecodec_export.adapters.int8_lstm import Int8Lstm
from edgecodec_export.adapters.lstm import ResidualLstm
from edgecodec_export.adapters.weights import Weights
from edgecodec_export.audio import synthetic_voice
from edgecodec_export.graphs import clean, exported
from onnx import numpy_helper
from streamed import apart, in_onnxruntime
from torch import nn
from typer.testing import CliRunner

HIDDEN, LAYERS = 32, 2
STEP = 0.02  # of the largest value: what another step of 8 bits may do
FRAMES = 60


def columns(frames: int = FRAMES, batch: int = 1) -> torch.Tensor:
    """`[B, C, 1, T]`."""
    return torch.randn(batch, HIDDEN, 1, frames, generator=torch.Generator().manual_seed(frames))


@pytest.fixture(scope="module")
def exact() -> ResidualLstm:
    """Of weights so large that its past matters."""
    torch.manual_seed(0)
    tensors = {f"lstm.{name}": 2 * tensor for name, tensor in nn.LSTM(HIDDEN, HIDDEN, LAYERS).state_dict().items()}
    return ResidualLstm(HIDDEN, LAYERS, Weights(tensors, "test"), "lstm").requires_grad_(False)


@pytest.fixture(scope="module")
def rounded(exact: ResidualLstm) -> ResidualLstm:
    """The same in int8, with ranges found on other columns."""
    ours, x = copy.deepcopy(exact), columns(500)[0, :, 0].T[:, None]
    for i, layer in enumerate(exact.layers):
        y = layer(x, None, None)[0]
        ours.layers[i] = Int8Lstm(layer, torch.cat([x, y], dim=2).flatten(0, 1))
        x = y
    return ours


@pytest.fixture(scope="module")
def graph(rounded: ResidualLstm) -> onnx.ModelProto:
    batch, frames = torch.export.Dim("B"), torch.export.Dim("T")
    example = [columns(5, batch=2), rounded_state(rounded, 2)]
    model = exported(rounded, example, ("x", "y"), {0: batch, 3: frames}, TRANSLATIONS)
    return clean(model, "lstm", ["B", HIDDEN, 1, "T"])


def rounded_state(lstm: ResidualLstm, batch: int) -> torch.Tensor:
    return torch.zeros(batch, lstm.state_size)


def streamed(graph: onnx.ModelProto, x: torch.Tensor, cuts: Any = ()) -> np.ndarray[Any, Any]:
    run, state, out = in_onnxruntime(graph), np.zeros((len(x), 2 * LAYERS * HIDDEN), np.float32), []
    for piece in np.split(x.numpy(), cuts, axis=3):
        y, state = run(piece, state)
        out.append(y)
    return np.concatenate(out, axis=3)


def lost(x: torch.Tensor, expected: torch.Tensor, found: np.ndarray[Any, Any]) -> float:
    """Energy of the differences, as a fraction of what the layers add to their input."""
    return float((expected - torch.from_numpy(found)).square().sum() / (expected - x).square().sum())


def test_it_is_near_the_exact_one(exact: ResidualLstm, rounded: ResidualLstm) -> None:
    x, state = columns(), rounded_state(exact, 1)
    expected, after = exact(x, state)
    found, found_after = rounded(x, state)
    assert 1e-4 < apart(expected, found) < 0.05
    assert 1e-4 < apart(after, found_after) < 0.05
    assert apart(found, rounded.whole(x)) == 0
    deaf = copy.deepcopy(rounded)  # negative control: nothing is handed on from one column to the next
    for layer in deaf.layers:
        assert isinstance(layer, Int8Lstm)
        layer.states.weight_scale *= 0
    assert apart(expected, deaf(x, state)[0]) > 0.1


def test_onnxruntime_does_what_torch_does(rounded: ResidualLstm, graph: onnx.ModelProto) -> None:
    """A number between two steps may be rounded either way, which the next columns hear."""
    x = columns(batch=3)
    expected, state = rounded(x, rounded_state(rounded, 3))
    found, after = in_onnxruntime(graph)(x, rounded_state(rounded, 3))
    assert apart(expected, found) < STEP
    assert apart(state, after) < STEP
    assert lost(x, expected, found) < 1e-5


def test_another_scale_is_noticed(rounded: ResidualLstm, graph: onnx.ModelProto) -> None:
    faulty = onnx.ModelProto()
    faulty.CopyFrom(graph)
    scale = next(tensor for tensor in faulty.graph.initializer if tensor.name.endswith("0.inputs.weight_scale"))
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.02), scale.name))
    x = columns()
    assert lost(x, rounded(x, rounded_state(rounded, 1))[0], streamed(faulty, x)) > 1e-5


def test_the_graph_multiplies_integers(graph: onnx.ModelProto) -> None:
    assert {domain.domain for domain in graph.opset_import} == {""}
    kinds = Counter(node.op_type for node in graph.graph.node)
    assert (kinds["Scan"], kinds["LSTM"], kinds["QuantizeLinear"]) == (LAYERS, 0, LAYERS)
    for node in graph.graph.node:
        if node.op_type == "Scan":
            (body,) = (attribute.g for attribute in node.attribute if attribute.name == "body")
            assert [inner.op_type for inner in body.node].count("MatMulInteger") == 1
            assert not body.initializer  # weights stand outside, once
    large = [t for t in graph.graph.initializer if np.prod(t.dims) >= HIDDEN * HIDDEN]
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.UINT8}
    assert len(large) == 2 * LAYERS


@pytest.mark.parametrize("seed", range(3))
def test_cuts_and_batches_change_no_bit(graph: onnx.ModelProto, seed: int) -> None:
    x = columns(batch=2)
    whole = streamed(graph, x)
    cuts = np.sort(np.random.default_rng(seed).choice(np.arange(1, FRAMES), 9, replace=False))
    assert np.array_equal(streamed(graph, x, cuts), whole)
    assert np.array_equal(streamed(graph, x, range(1, FRAMES)), whole)
    assert np.array_equal(streamed(graph, x[1:]), whole[1:])


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 1), (7, 1), (4, 2), (16, 8), (9, 3)])
def test_windows_are_what_a_convolution_sees(kernel: int, stride: int) -> None:
    torch.manual_seed(1)
    layer = nn.Conv2d(6, 8, (1, kernel), stride=(1, stride)).requires_grad_(False)
    x = torch.randn(2, 6, 1, kernel + 4 * stride)
    rows = windows(x, kernel, stride)
    assert rows.shape == (2, 5, 6 * kernel)
    assert torch.equal(rows[1, 3].sort()[0], x[1, :, 0, 3 * stride : 3 * stride + kernel].flatten().sort()[0])
    ours = Int8Conv(layer, rows.flatten(0, 1))
    assert 1e-4 < apart(layer(x), ours(x)) < 0.05
    assert apart(layer(x), ours(x.flip(3))) > 0.1  # negative control


def of_kind(kind: str) -> tuple[Any, Any]:
    """A small model of transformers, and the module that tests its adapter; some of its sound is `voice`."""
    import test_encodec as of_24
    import test_encodec_32khz as of_32
    import test_encodec_48khz as of_48

    module: Any = {"24": of_24, "32": of_32, "48": of_48}[kind]
    return module.small_model(), module


def halved(codec: AdaptedCodec, sound: torch.Tensor) -> AdaptedCodec:
    """A copy in int8, of all layers that have such a form."""
    ours = copy.deepcopy(codec)
    use_int8(ours, [sound[0].numpy()], least=32)
    return ours


@pytest.fixture(scope="module")
def causal() -> tuple[AdaptedCodec, AdaptedCodec, torch.Tensor]:
    """EnCodec of 24 kHz, exact and in int8, and sound `[1, 1, samples]`."""
    model, module = of_kind("24")
    codec, sound = module.adapted(model), module.voice(120)[None, None]
    return codec, halved(codec, sound), sound


def test_a_codec(causal: tuple[AdaptedCodec, AdaptedCodec, torch.Tensor]) -> None:
    """Latents, audio and codes of EnCodec, from torch and from onnxruntime, streamed and whole."""
    exact, ours, sound = causal
    graphs = adapted_graphs(ours)
    for name in ("encoder", "decoder"):
        kinds = Counter(node.op_type for node in graphs[name].graph.node)
        assert kinds["Scan"] == 2
        assert kinds["QuantizeLinear"] == 5  # two of the LSTM, three convolutions; the last one alone is not causal
    run = {name: in_onnxruntime(graph) for name, graph in graphs.items()}
    latents = ours.encode_latents(sound)
    assert 1e-4 < apart(exact.encode_latents(sound), latents) < 0.1
    zero = ours.encoder.zero_state(1)
    found, _ = run["encoder"](sound, zero)
    assert apart(latents, found) < STEP
    (codes,) = run["quantizer_encode"](found, np.array(8))
    assert (codes == ours.quantizer.encode(latents, 8).numpy()).mean() > 0.99
    audio, _ = run["decoder"](latents, ours.decoder.zero_state(1))
    assert apart(ours.decode_latents(latents), audio) < STEP
    state, parts = zero, []
    for frame in np.split(sound.numpy(), [40, 120, 1000, 1040], axis=2):
        part, state = run["encoder"](frame, state)
        parts.append(run["quantizer_encode"](part, np.array(8))[0])
    assert np.array_equal(np.concatenate(parts, axis=2), codes)


@pytest.mark.parametrize("kind", ["32", "48"])
def test_codecs_that_look_ahead(kind: str) -> None:
    """Their LSTMs: the one of 32 kHz has a state, that of 48 kHz none."""
    model, module = of_kind(kind)
    exact = module.adapted(model)
    c = exact.contract
    voice = torch.from_numpy(synthetic_voice(8 * c.frame_size / c.sample_rate, c.sample_rate))
    sound = voice[: 8 * c.frame_size].expand(1, c.channels, -1).contiguous()
    ours = halved(exact, sound)
    graphs = {name: graph for name, graph in adapted_graphs(ours).items() if name in ("encoder", "decoder")}
    assert all("Scan" in [node.op_type for node in graph.graph.node] for graph in graphs.values())
    latents = ours.encode_latents(sound)
    assert 1e-6 < apart(exact.encode_latents(sound), latents) < 0.1

    def whole(part: str, x: torch.Tensor, lookahead: int) -> Any:
        last = [np.array(1)] if lookahead else []
        return in_onnxruntime(graphs[part])(x, getattr(ours, part).zero_state(1), *last)[0]

    assert apart(latents, whole("encoder", sound, c.encoder_lookahead)) < STEP
    assert apart(ours.decode_latents(latents), whole("decoder", latents, c.decoder_lookahead)) < STEP


def test_the_command(tmp_path: Path) -> None:
    import test_encodec as of_24

    (tmp_path / "sounds").mkdir()
    soundfile.write(tmp_path / "sounds" / "a.wav", synthetic_voice(3.0, 24_000), 24_000)

    def export(filters: int, folder: Path) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(of_24.SIZES, "num_filters", filters)
            source = of_24.save(of_24.small_model(), folder)
        options = ["--precision", "int8", "--calibration", str(tmp_path / "sounds")]
        return CliRunner().invoke(app, ["export", str(source), str(folder / "bundle"), *options])

    done = export(16, tmp_path / "wide")  # 128 channels in the LSTM: 65,536 weights
    assert done.exit_code == 0, done.output
    codec = edgecodec.load(tmp_path / "wide" / "bundle")
    assert codec.manifest.precision == "int8"
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "wide" / "bundle")]).exit_code == 0
    refused = export(4, tmp_path / "narrow")
    assert refused.exit_code == 1
    assert "encodec has no layer that is large enough to gain from int8" in " ".join(refused.output.split())
    assert not (tmp_path / "narrow" / "bundle").exists()


def test_silence_has_no_ranges(causal: tuple[AdaptedCodec, AdaptedCodec, torch.Tensor]) -> None:
    with pytest.raises(ExportError, match="nothing but silence"):
        use_int8(copy.deepcopy(causal[0]), [], least=32)
