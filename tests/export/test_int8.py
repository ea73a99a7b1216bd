"""int8 arithmetic: what the rounding does, that torch and onnxruntime do the same, and the export that uses it."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from edgecodec.commands.main import app
from edgecodec.errors import ExportError
from edgecodec.manifest import GRAPHS
from edgecodec_export import assemble
from edgecodec_export.audio import calibration_clips, synthetic_voice
from edgecodec_export.convert import Converted, StoredQuantizer, convert, stored_model
from edgecodec_export.fp16 import round_to_fp16, store_fp16
from edgecodec_export.int8 import Int8Linear, int8_tables
from edgecodec_export.quantizer_graphs import quantizer_decode_graph, quantizer_encode_graph
from edgecodec_training.codebook_search import LookupTables, search
from edgecodec_training.model import CodecModel
from edgecodec_training.quantizer import QuantizerConfig
from edgecodec_training.quantizers import build_quantizer
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn
from typer.testing import CliRunner

AUDIO = Path(__file__).parents[1] / "audio"
WIDE = {"edge": {"channels": 160, "encoder_blocks": 1, "decoder_blocks": 1}}  # 76,800 weights a product
TinyModel = Callable[..., CodecModel]


@pytest.fixture(scope="module")
def voice() -> Any:
    return synthetic_voice(2.0, 16_000)


@pytest.fixture(scope="module")
def wide(tiny_model: TinyModel, save_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose frame blocks are large enough."""
    return save_checkpoint(tiny_model(WIDE), tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def exported(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that the command makes of it."""
    target = tmp_path_factory.mktemp("int8") / "bundle"
    result = export(wide, target, "--precision", "int8", "--calibration", AUDIO)
    assert result.exit_code == 0, result.output
    return target


@pytest.fixture(scope="module")
def rounded(tiny_model: TinyModel, exported: Path) -> Converted:
    """The graphs of that bundle, and the model that they are of."""
    model = stored_model(tiny_model(WIDE), "int8", calibration_clips(AUDIO, 16_000, 80))
    return Converted(model, {name: onnx.load(exported / f"{name}.onnx") for name in GRAPHS})


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3, allow_subnormal=False), st.floats(0.01, 10), st.integers(0, 2**32 - 1))
def test_zero_is_exact_and_the_bias_takes_up_the_mean_error(shift: float, spread: float, seed: int) -> None:
    torch.manual_seed(seed)
    exact = nn.Linear(32, 16).requires_grad_(False)
    inputs = shift + spread * torch.randn(500, 32)
    layer = Int8Linear(exact.weight, exact.bias, inputs)
    assert torch.allclose(layer(torch.zeros(1, 32)), layer.bias)
    error = layer(inputs) - exact(inputs)
    typical = float(exact(inputs).std())
    assert float(error.mean(0).abs().max()) < 1e-3 * typical + 1e-5
    assert float(error.std()) < 0.05 * typical


def test_torch_and_onnxruntime_agree(rounded: Converted, runner: Callable[..., Any], voice: Any) -> None:
    """A number between two steps may be rounded either way; anything else would show as much more energy."""
    model = rounded.model
    audio = voice[None, None, : 80 * 300]
    latents = runner(rounded.graphs["encoder"])(audio, np.zeros((1, model.encoder.state_size), np.float32))[0]
    decoded = runner(rounded.graphs["decoder"])(latents, np.zeros((1, model.decoder.state_size), np.float32))[0]
    for theirs, ours in (
        (latents, model.encode_latents(torch.from_numpy(audio))),
        (decoded, model.decode_latents(torch.from_numpy(latents))),
    ):
        difference = theirs - ours.numpy()
        assert np.square(difference).sum() < 1e-5 * np.square(theirs).sum()


def test_it_is_near_the_model_and_smaller(rounded: Converted, tiny_model: TinyModel, voice: Any) -> None:
    stored = stored_model(tiny_model(WIDE), "fp16")
    for name in ("encoder", "decoder"):
        halves = 2 * sum(tensor.numel() for tensor in stored.get_submodule(name).state_dict().values())
        assert rounded.graphs[name].ByteSize() < 0.7 * halves
    exact, coarse = (m.encode_latents(torch.from_numpy(voice)[None, None]) for m in (stored, rounded.model))
    error = float((exact - coarse).square().sum() / exact.square().sum())
    assert 0 < error < 1e-3  # 30 dB


def test_onnxruntime_multiplies_integers(rounded: Converted, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    graph = rounded.graphs["decoder"]
    assert {domain.domain for domain in graph.opset_import} == {""}  # nothing but standard operators
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert operators["MatMulIntegerToFloat"] == 2
    assert operators["DequantizeLinear"] == 0


@pytest.fixture(scope="module")
def codebooks() -> StoredQuantizer:
    """Three random stages of 1024 entries in 64 dimensions, one of them zero, in the form that int8 bundles store."""
    torch.manual_seed(4)
    config = QuantizerConfig(max_stages=3, dropout_stages=(1,))
    plain = build_quantizer(config, 64).tables()
    table = plain.table * torch.logspace(1, -1, 3)[:, None, None]
    table[:, 0] = 0
    tables = int8_tables(by_distance(table))
    assert tables.scales is not None
    error = (tables.table - table).square().sum((1, 2)) / table.square().sum((1, 2))
    assert (error < 1e-4).all()  # 40 dB
    return StoredQuantizer(config, 64, tables)


def by_distance(table: torch.Tensor) -> LookupTables:
    return LookupTables(None, table.transpose(1, 2), -0.5 * table.square().sum(2), table)


def test_codebooks_are_bytes_that_the_search_multiplies_out_at_load_and_the_lookup_after_it(
    codebooks: StoredQuantizer, runner: Callable[..., Any], tmp_path: Path
) -> None:
    tables = codebooks.tables()
    in_halves = by_distance(round_to_fp16(tables.table))
    z = 10 * torch.randn(2, 30, 64, generator=torch.Generator().manual_seed(5))
    codes = codebooks.encode(z, 3)
    for make, inputs, expected in (
        (quantizer_encode_graph, (z.numpy(), np.array(3)), codes.numpy()),
        (quantizer_decode_graph, (codes.numpy(),), codebooks.decode(codes).numpy()),
    ):
        graph = store_fp16(make(tables))
        np.testing.assert_allclose(runner(graph)(*inputs)[0], expected, rtol=1e-6)
        assert graph.ByteSize() < 0.6 * store_fp16(make(in_halves)).ByteSize()
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        left = onnx.load(options.optimized_model_filepath).graph.initializer
        kept = [tensor.dims for tensor in left if tensor.data_type == onnx.TensorProto.UINT8]
        assert kept == ([] if make is quantizer_encode_graph else [[3 * 1024, 64]])
        if kept:  # in memory as on the disk, and what the vectors are does not depend on when they are made
            assert sum(len(tensor.raw_data) for tensor in left) < 1.1 * 3 * 1024 * (64 + 4)
            assert np.array_equal(runner(graph)(codes.numpy()[:, :1])[0], tables.table[0, codes[:, 0]].numpy())


@pytest.mark.parametrize("paths", [0, 1, 4, 8])
def test_codebooks_of_bytes_serve_the_wide_search_too(
    codebooks: StoredQuantizer, runner: Callable[..., Any], paths: int
) -> None:
    tables = codebooks.tables()._replace(paths=(3, 2))
    z = 10 * torch.randn(2, 30, 64, generator=torch.Generator().manual_seed(6))
    graph = store_fp16(quantizer_encode_graph(tables))
    for n in (1, 2, 3):
        kept = tables.kept([paths] * n) if paths else tables.kept()[:n]
        codes = runner(graph)(z.numpy(), np.array(n), np.array(paths))[0]
        assert np.array_equal(codes, search(tables, z, kept).numpy())
    narrow = store_fp16(quantizer_encode_graph(codebooks.tables()))
    assert graph.ByteSize() < 1.1 * narrow.ByteSize()


@settings(max_examples=10, deadline=None)
@given(st.floats(-8, 4, allow_subnormal=False))
def test_codebooks_of_any_size_are_stored_exactly(exponent: float) -> None:
    plain = build_quantizer(QuantizerConfig(max_stages=1, dropout_stages=(1,)), 64).tables()
    table = plain.table * 10**exponent
    tables = int8_tables(by_distance(table))
    assert tables.scales is not None
    quantizer_encode_graph(tables)  # or it would refuse


def test_a_table_that_bytes_cannot_hold_is_refused(codebooks: StoredQuantizer) -> None:
    tables = codebooks.tables()
    assert tables.scales is not None
    with pytest.raises(ExportError, match="a table is no whole multiple of its scales"):
        quantizer_encode_graph(tables._replace(scales=0.9 * tables.scales))


@pytest.mark.parametrize("changes", [{"code_dim": 8}, {"normalized": True}, {"codebook_size": 16}])
def test_codebooks_that_are_scored_otherwise_or_small_stay(changes: dict[str, Any]) -> None:
    tables = build_quantizer(QuantizerConfig(max_stages=2, dropout_stages=(1,), **changes), 64).tables()
    if "normalized" in changes:  # cosine: no bias
        assert not tables.bias.any()
    assert int8_tables(tables) is tables


def export(checkpoint: Path, target: Path, *options: object) -> Any:
    return CliRunner().invoke(app, ["export", str(checkpoint), str(target), *map(str, options)])


def test_the_command(exported: Path) -> None:
    codec = edgecodec.load(exported)
    assert codec.manifest.precision == "int8"
    assert "multiplied as int8" in (exported / "MODEL_CARD.md").read_text()
    assert CliRunner().invoke(app, ["verify", str(exported)]).exit_code == 0
    audio, _ = soundfile.read(AUDIO / "speech_ro.flac", frames=16_000, dtype="float32")
    encoder = codec.encoder_stream(stages=4)
    packets = [packet for block in np.array_split(audio, 7) for packet in encoder.push(block)] + encoder.flush()
    assert np.array_equal(np.concatenate([p.codes for p in packets], axis=2), codec.encode(audio, stages=4))


def test_what_it_refuses(checkpoint: Path, wide: Path, tmp_path: Path) -> None:
    target, empty = tmp_path / "bundle", tmp_path / "empty"
    empty.mkdir()
    int8 = ("--precision", "int8")
    for source, options, code, message in (
        (wide, int8, 2, "goes with --precision int8, which needs it"),
        (wide, ("--calibration", AUDIO), 2, "goes with --precision int8, which needs it"),
        (wide, (*int8, "--calibration", tmp_path / "none"), 1, "no such file or folder"),
        (wide, (*int8, "--calibration", empty), 1, "no audio under"),
        (checkpoint, (*int8, "--calibration", AUDIO), 1, "no frame block is large enough"),
    ):
        result = export(source, target, *options)
        assert (result.exit_code, target.exists()) == (code, False), result.output
        assert message in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(("part", "what"), [("encoder", "latents"), ("decoder", "audio")])
def test_a_slightly_wrong_scale_is_noticed(
    part: str, what: str, rounded: Converted, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No single number is far off; all together they are."""
    graph = onnx.ModelProto()
    graph.CopyFrom(rounded.graphs[part])
    scale = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("contract.weight_scale"))
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.01), scale.name))
    faulty = dataclasses.replace(rounded, graphs=rounded.graphs | {part: graph})
    monkeypatch.setattr(assemble, "convert", lambda *_: faulty)
    result = export(wide, tmp_path / "bundle", "--precision", "int8", "--calibration", AUDIO)
    assert result.exit_code == 1
    assert re.search(rf"{what}: .* of the energy differs from torch's", result.output), result.output


def test_silence_has_no_ranges(tiny_model: TinyModel) -> None:
    with pytest.raises(ExportError, match="nothing but silence"):
        convert(tiny_model(WIDE), "int8", [])
