"""Encoder and decoder graphs: what is in the files, and what is not."""

import getpass
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from edgecodec.errors import ExportError
from edgecodec_export.convert import Converted, convert, stored_model
from edgecodec_export.fp16 import store_fp16
from edgecodec_export.graph_builder import GraphBuilder
from edgecodec_export.onnx_model import opset_of
from edgecodec_training.model import CodecModel

TinyModel = Callable[..., CodecModel]
SEANET = {
    "architecture": "seanet",
    "seanet": {"channels": 8, "strides": [2, 5], "patch": 8, "blocks": 1, "activation": "leaky_relu"},
}


@pytest.fixture(scope="module", params=["edge", "seanet"])
def exported(request: pytest.FixtureRequest, tiny_model: TinyModel, converted: Converted) -> Converted:
    return converted if request.param == "edge" else convert(tiny_model(SEANET))


def test_interface(exported: Converted) -> None:
    model, graphs = exported.model, exported.graphs
    expected = {
        "encoder": (
            {"audio": ["B", 1, "80*T"], "state": "encoder"},
            {"latents": ["B", "T", 8], "next_state": "encoder"},
        ),
        "decoder": (
            {"latents": ["B", "T", 8], "state": "decoder"},
            {"audio": ["B", 1, "80*T"], "next_state": "decoder"},
        ),
    }
    for name, (inputs, outputs) in expected.items():
        for values, shapes in ((graphs[name].graph.input, inputs), (graphs[name].graph.output, outputs)):
            assert [value.name for value in values] == list(shapes)
            for value in values:
                shape = shapes[value.name]
                dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
                assert dims == (["B", getattr(model, shape).state_size] if isinstance(shape, str) else shape)


def test_nothing_of_the_machine_in_the_files(exported: Converted) -> None:
    host = socket.gethostname()
    traces = [str(Path.cwd()), str(Path.home()), "site-packages", ".py", "/usr", "/tmp"]
    traces += [host] if len(host) > 5 else []  # a shorter one stands in any file by chance
    for graph in exported.graphs.values():
        data = graph.SerializeToString()
        for trace in traces:
            assert trace.encode() not in data, trace
        assert not graph.metadata_props and not any(node.metadata_props or node.doc_string for node in graph.graph.node)
        assert getpass.getuser() in ("root", "user") or getpass.getuser().encode() not in data


def test_loads_in_old_runtimes(exported: Converted) -> None:
    for graph in exported.graphs.values():
        assert graph.ir_version == 8
        assert [(o.domain, o.version) for o in graph.opset_import] == [("", 18)]
        assert not any(t.data_location for t in graph.graph.initializer)  # nothing outside the file


def test_the_same_weights_give_the_same_bytes(bundle: Path, converted: Converted) -> None:
    for name, graph in converted.graphs.items():
        assert graph.SerializeToString(deterministic=True) == (bundle / f"{name}.onnx").read_bytes()


@pytest.mark.parametrize("batch", [1, 3])
def test_streamed_in_any_chunks_is_the_whole(exported: Converted, runner: Callable[..., Any], batch: int) -> None:
    model, graphs = exported.model, exported.graphs
    rng = np.random.default_rng(0)
    frames, size = 40, model.config.frame_size
    audio = rng.uniform(-0.5, 0.5, (batch, 1, frames * size)).astype(np.float32)
    cases = (("encoder", model.encoder, audio, 2, size, 1), ("decoder", model.decoder, None, 1, 1, 2))
    for name, part, signal, axis, unit, joined in cases:
        run = runner(graphs[name])
        x = signal if signal is not None else rng.standard_normal((batch, frames, 8)).astype(np.float32)
        whole = run(x, np.zeros((batch, part.state_size), np.float32))[0]
        with torch.no_grad():
            ours = part(torch.from_numpy(x), part.zero_state(batch))[0].numpy()
        np.testing.assert_allclose(whole, ours, atol=1e-4 * np.abs(ours).max())
        for chunks in ([1] * frames, [3, 1, 7, 2, 11, 16], [39, 1]):
            state = np.zeros((batch, part.state_size), np.float32)
            pieces = []
            for chunk in np.split(x, np.cumsum(chunks)[:-1] * unit, axis=axis):
                piece, state = run(np.ascontiguousarray(chunk), state)
                pieces.append(piece)
            np.testing.assert_array_equal(np.concatenate(pieces, axis=joined), whole)


def test_shapes_are_constants(exported: Converted) -> None:
    """Shapes computed at run time would cost several nodes in every frame."""
    for name in ("encoder", "decoder"):
        assert not any(node.op_type == "Shape" for node in exported.graphs[name].graph.node)


def test_onnxruntime_fuses_gelu_with_its_bias(exported: Converted, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        exported.graphs["decoder"].SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    operators = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert operators["Erf"] == 0
    assert operators["BiasGelu"] + operators["Gelu"] >= 1


def test_float16_storage_halves_the_files_and_keeps_agreement(
    tiny_model: TinyModel, converted: Converted, exported_fp16: tuple[Path, Any], runner: Callable[..., Any]
) -> None:
    model = stored_model(tiny_model(), "fp16")
    graphs = {name: onnx.load(exported_fp16[0] / f"{name}.onnx") for name in converted.graphs}
    for name in ("encoder", "decoder"):
        assert graphs[name].ByteSize() < 0.7 * converted.graphs[name].ByteSize()
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 1, 800)).astype(np.float32)
    state = np.zeros((1, model.encoder.state_size), np.float32)
    latents = runner(graphs["encoder"])(audio, state)[0]
    np.testing.assert_allclose(latents, model.encode_latents(torch.from_numpy(audio)).numpy(), atol=1e-4)
    codes = runner(graphs["quantizer_encode"])(latents, 4, 0)[0]
    assert np.array_equal(codes, model.quantizer.encode(torch.from_numpy(latents), 4).numpy())
    decoded = runner(graphs["quantizer_decode"])(codes)[0]
    assert np.array_equal(decoded, model.quantizer.decode(torch.from_numpy(codes)).numpy())


def test_float16_stores_only_what_it_holds(runner: Callable[..., Any]) -> None:
    """A graph's numbers are the model's: what the model did not round is not rounded behind its back."""
    exact = np.arange(400, dtype=np.float32).reshape(20, 20)
    graph = GraphBuilder()
    product = graph.add("MatMul", ["x", graph.constant("exact", exact, np.float32)], "product")
    graph.add("MatMul", [product, graph.constant("thirds", exact / 3, np.float32)], "y")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 20]) for name in "xy")
    model = graph.model("two products", [x], [y])
    stored = store_fp16(model)
    assert {t.name: t.data_type for t in stored.graph.initializer} == {
        "exact.fp16": onnx.TensorProto.FLOAT16,
        "thirds": onnx.TensorProto.FLOAT,
    }
    ones = np.ones((3, 20), np.float32)
    assert np.array_equal(runner(stored)(ones)[0], runner(model)(ones)[0])


def test_graphs_of_several_opsets_are_refused(converted: Converted) -> None:
    assert opset_of(converted.graphs) == 18
    older = onnx.ModelProto()
    older.CopyFrom(converted.graphs["decoder"])
    older.opset_import[0].version = 17
    with pytest.raises(ExportError, match=r"decoder: has opsets .*17.*, not 18"):
        opset_of(converted.graphs | {"decoder": older})
