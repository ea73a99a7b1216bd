"""Every way in which a bundle can be wrong is refused, with what and where."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import onnx
import pytest
from edgecodec import BundleError, Manifest
from edgecodec.bundle import shipped_bundles
from edgecodec.golden import verify
from edgecodec.manifest import GRAPHS

TINY = Path(__file__).parent / "tiny_bundle"


def edit(bundle: Path, **changes: Any) -> None:
    """Set keys of the manifest, given as a__b=value; None deletes one."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = data
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    path.write_text(json.dumps(data))


def replace(bundle: Path, name: str, data: bytes) -> None:
    """Put other bytes into a graph, with a manifest that vouches for them."""
    (bundle / f"{name}.onnx").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit(bundle, **{f"graphs__{name}__sha256": digest, f"graphs__{name}__bytes": len(data)})


@pytest.mark.parametrize("folder", [*shipped_bundles().values(), TINY], ids=lambda folder: folder.name)
def test_a_manifest_is_written_as_it_was_read(folder: Path) -> None:
    data = (folder / "manifest.json").read_bytes()
    assert Manifest.from_json(data).to_json().encode() == data


def test_what_a_manifest_says(tiny: Path) -> None:
    text = (tiny / "manifest.json").read_text()
    manifest = Manifest.from_json(text)
    assert manifest.frame_rate == 500
    assert manifest.quantizer.code_bits == 4
    assert next(iter(json.loads(text))) == "format_version"


@pytest.mark.parametrize(("committed", "paths"), [("tiny_bundle", ()), ("paths_bundle", (2,))])
def test_the_committed_bundles_are_what_their_maker_makes(committed: str, paths, maker, tmp_path: Path) -> None:
    maker.make(tmp_path, paths)
    tiny = TINY.parent / committed
    for name in GRAPHS:
        made, kept = (onnx.load(folder / f"{name}.onnx") for folder in (tmp_path, tiny))
        assert made.graph.node == kept.graph.node
        for new, old in zip(made.graph.initializer, kept.graph.initializer, strict=True):
            assert np.allclose(onnx.numpy_helper.to_array(new), onnx.numpy_helper.to_array(old), atol=1e-6)


@pytest.mark.parametrize("name", GRAPHS)
def test_one_byte_changed(bundle: Path, name: str) -> None:
    path = bundle / f"{name}.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name}\.onnx: altered"):
        edgecodec.load(bundle)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_is_missing_cut_or_longer(bundle: Path, name: str) -> None:
    path = bundle / f"{name}.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(BundleError, match="altered"):
        edgecodec.load(bundle)
    path.write_bytes(data + b"\0")
    with pytest.raises(BundleError, match="altered"):
        edgecodec.load(bundle)
    path.unlink()
    with pytest.raises(BundleError, match=rf"{name}\.onnx: No such file or directory; the bundle is incomplete"):
        edgecodec.load(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format 3, this edgecodec reads up to 2: upgrade"),
        ({"side": 1}, "format_version: 1, but it holds keys of format 2"),
        ({"format_version": 2, "stage_widths": [1, 2]}, "stage_widths: 2 widths for 4 stages"),
        (
            {"format_version": 2, "call_frames": 1, "start_frames": {"encoder": 2, "decoder": 1}},
            "more than the one frame",
        ),
        (
            {"format_version": 2, "start_frames": {"encoder": 3, "decoder": 1}},
            "latency.algorithmic: 16, but 32 samples",
        ),
        ({"format_version": 2, "lookahead": {"encoder": 2, "decoder": 0}}, "keeps back"),
        (
            {
                "format_version": 2,
                "call_frames": 2,
                "lookahead": {"encoder": 1, "decoder": 0},
                "start_frames": {"encoder": 2, "decoder": 1},
            },
            "call_frames: more than one, of graphs that look ahead",
        ),
        ({"format_version": 2, "call_frames": 65}, "call_frames: Expected int <= 64"),
        ({"format_version": None}, "the manifest: Object missing required field format_version"),
        ({"format_version": "1"}, "the manifest's format_version: Expected int, got str"),
        ({"format_version": 0}, "format_version: Expected int >= 1"),
        ({"name": None}, "missing required field name"),
        ({"quantizer__kind": None}, "the manifest's quantizer: Object missing required field kind"),
        ({"colour": "red"}, "the manifest: Object contains unknown field colour"),
        ({"graphs__encoder__url": "x"}, "the manifest's graphs.encoder: Object contains unknown field url"),
        ({"sample_rate": "8000"}, "sample_rate: Expected int, got str"),
        ({"sample_rate": 8000.0}, "sample_rate: Expected int, got float"),
        ({"sample_rate": True}, "sample_rate: Expected int, got bool"),
        ({"sample_rate": 10**9}, "sample_rate: Expected int <= 768000"),
        ({"frame_size": 0}, "frame_size: Expected int >= 1"),
        ({"latent_dim": 1 << 30}, "latent_dim"),
        ({"state__encoder": 1 << 40}, "state.encoder"),
        ({"quantizer": []}, "quantizer: Expected object, got array"),
        ({"quantizer__max_stages": 10**6}, "max_stages"),
        ({"graphs__decoder__bytes": 1 << 40}, "graphs.decoder.bytes"),
        ({"latency__algorithmic": -1}, "latency.algorithmic"),
        ({"name": ""}, "name: Expected str of length >= 1"),
        ({"name": "x" * 201}, "name: Expected str of length <= 200"),
        ({"colour\n\x1b[31m" + "d" * 999: 1}, "unknown field colour"),
        ({"quality": {}}, "quality: Expected array, got object"),
        ({"graphs__encoder__file": "../encoder.onnx"}, "leave the bundle"),
        ({"graphs__encoder__file": "/etc/passwd"}, "leave the bundle"),
        ({"graphs__encoder__file": "a\\b.onnx"}, "leave the bundle"),
        ({"graphs__encoder__file": ".."}, "leave the bundle"),
        ({"graphs__encoder__file": "sub/encoder.onnx"}, "leave the bundle"),
        ({"graphs__encoder__file": "."}, "leave the bundle"),
        ({"graphs__encoder__file": "a\0b"}, "leave the bundle"),
        # Numbers within their range that the graphs do not bear out:
        ({"latent_dim": 15}, "encoder.onnx: output latents"),
        ({"state__encoder": 17}, "encoder.onnx: input state"),
        ({"state__decoder": 15}, "decoder.onnx: input state"),
        ({"frame_size": 32}, "graphs contradict the manifest"),
        ({"frame_size": 8}, "graphs contradict the manifest"),
        ({"quantizer__max_stages": 8}, "graphs contradict the manifest: codes"),
        ({"quantizer__codebook_size": 2}, "codes must lie in 0..1"),
    ],
)
def test_manifests_that_are_refused(bundle: Path, changes: dict[str, Any], message: str) -> None:
    # Silence has code 0 in the tiny bundle; a table whose first entry is far away gives other codes.
    if "quantizer__codebook_size" in changes:
        graph = onnx.load(bundle / "quantizer_encode.onnx")
        for tensor in graph.graph.initializer:
            if tensor.name == "biases":
                bias = np.zeros((4, 16), np.float32)
                bias[0, 9] = 1
                tensor.CopyFrom(onnx.numpy_helper.from_array(bias, "biases"))
        replace(bundle, "quantizer_encode", graph.SerializeToString())
    edit(bundle, **changes)
    with pytest.raises(BundleError) as caught:
        edgecodec.load(bundle)
    assert message in str(caught.value)
    assert str(bundle) in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600  # one line


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null", b" " * (1 << 21)])
def test_manifests_that_are_none(bundle: Path, text: bytes) -> None:
    (bundle / "manifest.json").write_bytes(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        edgecodec.load(bundle)


def test_links_that_leave_the_folder(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "encoder.onnx"
    shutil.move(path, tmp_path / "elsewhere.onnx")
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="a link that leaves the bundle"):
        edgecodec.load(bundle)
    path.unlink()
    path.symlink_to("encoder.onnx")
    with pytest.raises(BundleError, match="incomplete"):
        edgecodec.load(bundle)
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError, match="incomplete"):
        edgecodec.load(bundle)


def test_external_data(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(bundle / "encoder.onnx")
    onnx.save(model, bundle / "encoder.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    replace(bundle, "encoder", (bundle / "encoder.onnx").read_bytes())
    monkeypatch.chdir(bundle)  # where onnxruntime itself would find the weights, and load them unchecked
    with pytest.raises(BundleError, match=r"encoder\.onnx: keeps weights in another file"):
        edgecodec.load(bundle)


def test_bytes_that_are_no_graph(bundle: Path) -> None:
    replace(bundle, "decoder", b"not a graph at all")
    with pytest.raises(BundleError, match=r"decoder\.onnx: is no ONNX model"):
        edgecodec.load(bundle)


def test_graphs_that_changed_places(bundle: Path) -> None:
    replace(bundle, "decoder", (bundle / "encoder.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"decoder\.onnx: has inputs audio, state, expected latents, state"):
        edgecodec.load(bundle)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_graphs_that_fail_on_sound(bundle: Path, name: str) -> None:
    """One that takes two frames, as it is tried with at loading, and no other number."""
    graph = onnx.load(bundle / f"{name}.onnx")
    first = graph.graph.input[0].name
    shape = [1, 1, 2 * 16] if name == "encoder" else [1, 2, 16]
    for node in graph.graph.node:
        node.input[:] = ["two_frames" if value == first else value for value in node.input]
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape), "two_frames.shape"))
    graph.graph.node.insert(0, onnx.helper.make_node("Reshape", [first, "two_frames.shape"], ["two_frames"]))
    replace(bundle, name, graph.SerializeToString())
    codec = edgecodec.load(bundle)
    audio, codes = np.zeros(160, np.float32), np.zeros((1, 1, 3), np.int64)
    whole = {"encoder": lambda: codec.encode(audio), "decoder": lambda: codec.decode(codes)}[name]
    stream = {
        "encoder": lambda: codec.encoder_stream().push(audio[:16]),
        "decoder": lambda: codec.decoder_stream().push(edgecodec.Packet(0, codes[:, :, :1])),
    }[name]
    for use in (whole, stream):
        with pytest.raises(BundleError, match=rf"^{name}\.onnx: onnxruntime cannot run the graph: "):
            use()


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"no bundle named 'nothing'; shipped: "):
        edgecodec.load("nothing")
    with pytest.raises(BundleError, match="no such bundle folder"):
        edgecodec.load("./nothing")
    with pytest.raises(BundleError, match="is this a bundle folder"):
        edgecodec.load(tmp_path)
    shutil.copytree(tiny, tmp_path / "mine")
    assert edgecodec.load("mine").manifest.name == "tiny"
    assert edgecodec.load(f"{tmp_path}/mine").fingerprint == edgecodec.load(tiny).fingerprint


def test_the_fingerprint_is_of_the_graphs_alone(bundle: Path, tiny: Path) -> None:
    (bundle / "MODEL_CARD.md").write_text("words")
    edit(bundle, training={"data": "words"})
    assert edgecodec.load(bundle).fingerprint == edgecodec.load(tiny).fingerprint
    graph = onnx.load(bundle / "encoder.onnx")
    graph.producer_version = "2"
    replace(bundle, "encoder", graph.SerializeToString())
    assert edgecodec.load(bundle).fingerprint != edgecodec.load(tiny).fingerprint


def test_golden_vectors_verify(codec: edgecodec.Codec) -> None:
    results = verify(codec)
    assert [result.stages for result in results] == [1, 2, 4]
    assert all(result.passed for result in results)


def replace_golden(bundle: Path, data: bytes) -> None:
    (bundle / "golden.npz").write_bytes(data)
    edit(bundle, golden__sha256=hashlib.sha256(data).hexdigest(), golden__bytes=len(data))


def test_golden_vectors_of_another_codec_fail(bundle: Path, maker) -> None:
    with np.load(bundle / "golden.npz") as file:
        arrays = dict(file)
    arrays["codes_2"] = (arrays["codes_2"] + 1) % 16
    arrays["decoded_4"] = arrays["decoded_4"] + np.float32(0.01)
    replace_golden(bundle, maker.golden_bytes(arrays))
    assert [result.passed for result in verify(edgecodec.load(bundle))] == [True, False, False]


@pytest.mark.parametrize(
    "change",
    [
        {"audio": np.zeros((1, 1, 0), np.float32)},
        {"audio": np.zeros((1, 1, 100), np.float64)},
        {"codes_1": np.zeros((1, 1, 9), np.int64)},
        {"codes_9": np.zeros((1, 9, 189), np.int64)},
        {"decoded_1": np.zeros((1, 1, 5), np.float32)},
        {"evil": np.zeros(3)},
        {"codes_1": np.array([{}], dtype=object)},
        {"decoded_2": np.zeros((1, 1, 9 << 20))},
    ],
)
def test_golden_vectors_that_are_refused(bundle: Path, maker, change: dict[str, np.ndarray]) -> None:
    with np.load(bundle / "golden.npz") as file:
        arrays = {**file, **change}
    replace_golden(bundle, maker.golden_bytes(arrays))
    with pytest.raises(BundleError, match=r"golden\.npz"):
        verify(edgecodec.load(bundle))


def test_golden_vectors_that_are_no_archive(bundle: Path) -> None:
    replace_golden(bundle, b"PK\x03\x04 not an archive")
    with pytest.raises(BundleError, match="not golden vectors"):
        verify(edgecodec.load(bundle))
    (bundle / "golden.npz").unlink()
    with pytest.raises(BundleError, match="incomplete"):
        verify(edgecodec.load(bundle))
