"""Bundles of strangers: weights that lie elsewhere, names that write to the terminal, codes that are none."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import edgecodec
import numpy as np
import onnx
import onnxruntime
import pytest
from edgecodec.errors import BitstreamError, BundleError
from edgecodec.manifest import Manifest
from edgecodec.onnx_fields import MOST_DEPTH, keeps_data_elsewhere
from onnx import TensorProto, helper

HERE = Path(__file__).parent
CORPUS = HERE.parent / "fuzz" / "corpus"


def number(value: int) -> bytes:
    """A protobuf varint."""
    groups = [value >> 7 * i & 127 for i in range(max(1, -(-value.bit_length() // 7)))]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def field(tag: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return number(tag << 3) + number(content)
    return number(tag << 3 | 2) + number(len(content)) + content


def pair(key: bytes, value: bytes, *, swapped: bool = False) -> bytes:
    parts = [field(1, key), field(2, value)]
    return b"".join(reversed(parts) if swapped else parts)


EXTERNAL = [
    field(14, 1), field(13, pair(b"location", b"x")), field(13, pair(b"location", b"x", swapped=True)),
    field(1, 3) + field(13, pair(b"offset", b"0")), field(14, 1 << 33 | 1),
]  # fmt: skip


def places(tensor: bytes) -> dict[str, bytes]:
    """Models with a tensor everywhere where one can be."""
    sparse = [field(1, tensor), field(2, tensor)]
    attributes = [field(5, tensor), field(10, tensor), *(field(n, s) for n in (22, 23) for s in sparse)]
    nodes = [field(1, field(5, attribute)) for attribute in attributes]
    graphs = [field(5, tensor), *(field(15, s) for s in sparse), *nodes]
    inner = [field(1, field(5, field(n, graph))) for n in (6, 11) for graph in graphs]
    functions = [field(7, field(5, attribute)) for attribute in attributes]
    functions += [field(11, attribute) for attribute in attributes]
    models = [field(7, graph) for graph in (*graphs, *inner)]
    models += [field(20, field(n, graph)) for n in (1, 2) for graph in (*graphs, *inner)]
    models += [field(25, function) for function in functions]
    return {str(i): field(1, 8) + model + field(8, pair(b"", b"")) for i, model in enumerate(models)}


def strange_models() -> list[bytes]:
    """Models with a tensor wherever one can be, of strangers and whole, and bytes that are none."""
    whole = field(1, 3) + field(14, 0) + field(9, b"j\x0e\n\x08location\x12\x01x")
    models = [model for tensor in (*EXTERNAL, whole) for model in places(tensor).values()]
    deep = b""
    for _ in range(MOST_DEPTH):
        deep = field(1, field(5, field(6, deep)))
    models += [b"\x3b", b"\x3a\xff", b"\x3a" + b"\xff" * 12, field(7, 1), b"\x00\x00", field(7, deep), number(1 << 40)]
    models += [field(7, b"\x0a\x05abc"), b"\x39" + bytes(7), b"", number(1 << 69) + b"x", field(30, 1 << 63)]
    return models


def test_external_data_is_found_wherever_a_tensor_can_be() -> None:
    for tensor in EXTERNAL:
        for where, model in places(tensor).items():
            assert keeps_data_elsewhere(model), (where, tensor)
            if b"location" in tensor:  # onnx, which reads protobuf with Google's own code, sees what we built
                assert b"location" in onnx.load_from_string(model).SerializeToString()
    for model in places(field(1, 3) + field(14, 0) + field(9, b"j\x0e\n\x08location\x12\x01x")).values():
        assert not keeps_data_elsewhere(model)  # negative control: the same bytes as weights


@pytest.mark.parametrize("folder", ["tiny_bundle", "wide_bundle", "paths_bundle"])
def test_graphs_that_are_whole_pass(folder: Path) -> None:
    for path in (HERE / folder).glob("*.onnx"):
        assert not keeps_data_elsewhere(path.read_bytes())


def test_the_swapped_key_and_value_of_a_stranger() -> None:
    with pytest.raises(BundleError, match=r"encoder\.onnx: keeps weights in another file"):
        edgecodec.load(CORPUS / "bundle_external_swapped")


def test_an_onnx_file_that_onnxruntime_takes_for_its_own_format(bundle: Path) -> None:
    """It knows that by four bytes, and then none of what was checked here is what it reads."""
    graph = field(2, b"xxORTMyy") + (bundle / "encoder.onnx").read_bytes()
    assert not keeps_data_elsewhere(graph)
    onnx.checker.check_model(graph)
    with pytest.raises(Exception, match="ORT model verification failed"):
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"], enable_fallback=0)
    (bundle / "encoder.onnx").write_bytes(graph)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["graphs"]["encoder"] |= {"sha256": hashlib.sha256(graph).hexdigest(), "bytes": len(graph)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"encoder\.onnx: \.ort, and no other file, must be in onnxruntime's own"):
        edgecodec.load(bundle)


def test_bytes_that_are_no_protobuf_are_refused_at_once() -> None:
    deep = b""
    for _ in range(MOST_DEPTH):
        deep = field(1, field(5, field(6, deep)))
    bad = [b"\x3b", b"\x3a\xff", b"\x3a" + b"\xff" * 12, field(7, 1), b"\x00\x00", field(7, deep), number(1 << 40)]
    bad += [field(7, b"\x0a\x05abc"), b"\x39" + bytes(7)]
    for data in bad:
        with pytest.raises(BundleError):
            keeps_data_elsewhere(data)


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "a\nb", "\x07", "\u202egnp", "\u2028", "\x9b31m", "a\x00", "\ud800"], ids=ascii
)
@pytest.mark.parametrize("key", ["name", "architecture", "precision", "quantizer.kind"])
def test_names_cannot_write_to_the_terminal(tiny: Path, key: str, text: str) -> None:
    data = json.loads((tiny / "manifest.json").read_text())
    *parents, last = key.split(".")
    place = data
    for parent in parents:
        place = place[parent]
    place[last] = text
    with pytest.raises(BundleError) as refusal:
        Manifest.from_json(json.dumps(data))
    assert str(refusal.value).isprintable()


def test_names_are_as_long_as_files_can_hold(tiny: Path) -> None:
    data = json.loads((tiny / "manifest.json").read_text())
    for name, fits in (("é" * 32, True), ("é" * 33, False), ("x" * 200, False)):
        text = json.dumps(data | {"name": name})
        if fits:
            assert Manifest.from_json(text).name == name
        else:
            with pytest.raises(BundleError, match="name: more than 64 bytes"):
                Manifest.from_json(text)


def test_any_json_in_training_is_told_or_left_out(run, bundle: Path) -> None:
    path = bundle / "manifest.json"
    for value in ([], "x", {"saved": "\x1b[2J"}, None, {"saved": {"a": [1]}}):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"training": {"entropy": value}}))
        result = run("info", bundle)
        assert result.exit_code == 0 and "\x1b" not in result.stdout


def test_a_code_may_not_be_missing_within_a_stage() -> None:
    codec = edgecodec.load(HERE / "wide_bundle")
    layout = codec.manifest.layout
    lines = layout.lines(codec.max_stages)
    assert max(layout.widths) > 1
    for stage, frame in itertools.product(range(codec.max_stages), (0, 2)):
        first, end = layout.lines(stage), layout.lines(stage + 1)
        for line in range(first, end):
            codes = np.zeros((1, lines, 3), np.int64)
            codes[0, line, frame] = -1
            whole = end == lines and end - first == 1  # all that the last stage has
            if whole:
                codec.check_codes(codes)
            else:
                with pytest.raises(BitstreamError, match="-1 may only stand in the last stages"):
                    codec.check_codes(codes)
        if stage:
            codes = np.zeros((1, lines, 3), np.int64)
            codes[0, first:, frame] = -1
            assert np.array_equal(codec.check_codes(codes), codes)


def test_external_data_that_onnx_itself_writes() -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], bytes(16), raw=True)
    body = helper.make_graph([], "body", [], [], initializer=[tensor])
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=helper.make_graph([], "e", [], []))
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    assert not keeps_data_elsewhere(model.SerializeToString())
    held = next(a for a in model.graph.node[0].attribute if a.name == "then_branch").g.initializer[0]
    onnx.external_data_helper.set_external_data(held, "w.bin")
    assert keeps_data_elsewhere(model.SerializeToString())


def test_a_bundle_that_lost_its_name_to_a_killed_export_loads(bundle: Path) -> None:
    bundle.rename(bundle.with_name(f".{bundle.name}.edgecodec-old"))
    assert edgecodec.load(bundle).max_stages == 4
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


@pytest.mark.parametrize("name", ["\x1b[2J.onnx", "\u202exnno", "a\nb"])
def test_file_names_cannot_either(bundle: Path, name: str) -> None:
    data = json.loads((bundle / "manifest.json").read_text())
    data["graphs"]["decoder"]["file"] = name
    (bundle / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="no plain file name") as refusal:
        edgecodec.load(bundle)
    assert str(refusal.value).isprintable()
