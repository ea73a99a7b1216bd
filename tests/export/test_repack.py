"""A bundle from a bundle: fixed shapes and onnxruntime's own format give the same codes, or nothing is written."""

import collections
import json
import shutil
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import onnx
import onnxruntime
import pytest
from edgecodec.bundle import find_bundle, read_bundle
from edgecodec.commands.main import app
from edgecodec.errors import BundleError, ExportError
from edgecodec_export import repack as repacking
from edgecodec_export.repack import Repack, fixed, repack
from typer.testing import CliRunner

RUNTIME = Path(__file__).parents[1] / "runtime"
TINY, PATHS, WIDE = (RUNTIME / f"{name}_bundle" for name in ("tiny", "paths", "wide"))
KINDS = {"one": (1, False), "four": (4, False), "ort": (0, True), "both": (1, True)}


def sound(samples: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(samples)
    return (0.3 * rng.standard_normal((*shape, samples))).astype(np.float32)


@pytest.fixture(scope="module", params=["paths", "edge"])
def source(request: pytest.FixtureRequest) -> Path:
    """A transform codec, and an exported network."""
    return PATHS if request.param == "paths" else request.getfixturevalue("bundle")


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> edgecodec.Codec:
    frames, ort = KINDS[request.param]
    target = tmp_path_factory.mktemp("made") / request.param
    repack(Repack(str(source), target, request.param, frames, ort))
    return edgecodec.load(target)


def test_whole_clips_have_the_same_codes(source: Path, made: edgecodec.Codec) -> None:
    codec = edgecodec.load(source)
    for frames in (1, 2, 3, 4, 5, 8, 70):
        for rest in (0, 1):
            audio = sound(frames * codec.frame_size - rest, 3, 1)
            codes = codec.encode(audio, stages=3)
            assert np.array_equal(made.encode(audio, stages=3), codes), frames
            ours, theirs = (c.decode(codes, samples=audio.shape[2]) for c in (made, codec))
            assert np.abs(ours - theirs).max() < 1e-5
            with_gaps = codes.copy()
            with_gaps[:, 1:, ::2] = -1
            assert np.abs(made.decode(with_gaps) - codec.decode(with_gaps)).max() < 1e-5


def test_streams_have_the_same_codes_or_are_refused(source: Path, made: edgecodec.Codec) -> None:
    codec = edgecodec.load(source)
    if made.manifest.call_frames > 1:
        for stream in (made.encoder_stream, made.decoder_stream, made.latent_stream):
            with pytest.raises(BundleError, match="take 4 frames a call, whole clips only"):
                stream()
        return
    for channels in (1, 2):
        audio = sound(12 * codec.frame_size + 3, channels)
        packets, decoded = [], []
        for each in (codec, made):
            encoder = each.encoder_stream(stages=2, channels=channels, frames_per_packet=2)
            decoder = each.decoder_stream(channels=channels)
            packets.append([*encoder.push(audio), *encoder.flush()])
            decoded.append(np.concatenate([decoder.push(packet) for packet in packets[-1]], axis=-1))
        assert all(np.array_equal(a.codes, b.codes) for a, b in zip(*packets, strict=True))
        assert np.abs(decoded[0] - decoded[1]).max() < 1e-5


def test_what_the_manifest_and_the_graphs_say(source: Path, made: edgecodec.Codec) -> None:
    frames, ort = KINDS[made.manifest.name]
    m, before = made.manifest, read_bundle(source)
    assert m.call_frames == frames
    assert made.fingerprint == before.fingerprint
    assert m.fingerprint == before.fingerprint.hex()
    for name, graph in made.bundle.graphs.items():
        entry = getattr(m.graphs, name)
        assert entry.file == f"{name}.{'ort' if ort else 'onnx'}"
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        sizes = {node.name: node.shape for node in (*session.get_inputs(), *session.get_outputs())}
        if name == "encoder" and frames:
            assert sizes["audio"] == [1, 1, frames * m.frame_size]
            assert sizes["latents"] == [1, frames, m.latent_dim]
            assert sizes["state"] == sizes["next_state"] == [1, m.state.encoder]
        if name.startswith("quantizer"):
            assert not any(isinstance(size, int) for size in sizes["codes"])  # free, whatever the networks are
            assert ort or graph == before.graphs[name]
    card = (made.bundle.path / "MODEL_CARD.md").read_text()
    assert f"`{before.manifest.name}`" in card


def test_files_of_one_are_read_by_the_other(made: edgecodec.Codec, source: Path, tmp_path: Path) -> None:
    import soundfile

    codec = edgecodec.load(source)
    soundfile.write(tmp_path / "a.wav", sound(8 * codec.frame_size), codec.sample_rate)
    paths = [str(tmp_path / name) for name in ("a.wav", "a.edgc", "b.wav")]
    done = CliRunner().invoke(app, ["encode", *paths[:2], "--bundle", str(made.bundle.path), "--cbr", "-q", "2"])
    if made.manifest.call_frames > 1:
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert "streams and files" in done.stderr
        return
    assert done.exit_code == 0, done.stderr
    assert CliRunner().invoke(app, ["decode", *paths[1:], "--bundle", str(source)]).exit_code == 0


def operators(graph: bytes, folder: Path) -> collections.Counter[str]:
    """What onnxruntime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_blocks_in_8_bits_stay_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Gemm in place of MatMul and Add would make floats of the weights in every call."""
    speech = read_bundle("speech")
    free = operators(speech.graphs[name], tmp_path)["MatMulIntegerToFloat"]
    assert operators(fixed(speech.graphs[name], speech.manifest, 1), tmp_path)["MatMulIntegerToFloat"] == free > 0
    monkeypatch.setattr(repacking, "_keep_matrices_apart", lambda graph: None)
    assert operators(fixed(speech.graphs[name], speech.manifest, 1), tmp_path)["MatMulIntegerToFloat"] < free


def test_what_cannot_be_made(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(ExportError, match="looks ahead"):
        repack(Repack(str(WIDE), target, "made", 8))
    repack(Repack(str(WIDE), target, "made", 0, ort=True))  # of which only shapes must be free
    with pytest.raises(ExportError, match="exists; -f replaces it"):
        repack(Repack(str(TINY), target, "made", 1))
    repack(Repack(str(TINY), target, "made", 1, ort=True, force=True))
    with pytest.raises(ExportError, match="fix the bundle that it was made from"):
        repack(Repack(str(target), tmp_path / "again", "again", 2))
    repack(Repack(str(TINY), tmp_path / "four", "four", 4))
    with pytest.raises(ExportError, match="its first call takes 4 frames, not 1"):
        repack(Repack(str(tmp_path / "four"), tmp_path / "again", "again", 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["four", "made"]


def test_golden_vectors_that_do_not_repeat_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(graph: bytes, m: Any, frames: int) -> bytes:
        model = onnx.load_from_string(fixed(graph, m, frames))
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weights.raw_data = bytes(len(weights.raw_data))
        return model.SerializeToString()

    monkeypatch.setattr(repacking, "fixed", spoiled)
    with pytest.raises(ExportError, match="golden vectors do not repeat"):
        repack(Repack(str(TINY), tmp_path / "made", "made", 1))
    assert not list(tmp_path.iterdir())


def rename(folder: Path, graph: str, file: str, data: bytes) -> None:
    """Put a graph of another name or content into a bundle, whose manifest vouches for it."""
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["graphs"][graph] = {"file": file, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / file).write_bytes(data)


def test_onnxruntimes_format_is_what_is_called_ort(tmp_path: Path) -> None:
    """Or a file that names another one could pass by the check of ONNX files, or the other way round."""
    repack(Repack(str(TINY), tmp_path / "made", "made", ort=True))
    ort, graph = (tmp_path / "made" / "encoder.ort").read_bytes(), (TINY / "encoder.onnx").read_bytes()
    both = b"\x12\x08xxORTMyy" + graph  # a sound ONNX file, that onnxruntime takes for its own format
    onnx.checker.check_model(both)
    for i, (file, data) in enumerate([("e.onnx", ort), ("e.ort", graph), ("e.onnx", both), ("e.ORT", ort)]):
        folder = Path(shutil.copytree(TINY, tmp_path / str(i)))
        rename(folder, "encoder", file, data)
        with pytest.raises(BundleError, match=r"\.ort, and no other file, must be in onnxruntime's own format"):
            edgecodec.load(folder)
    rename(folder, "encoder", "e.ort", ort)
    assert edgecodec.load(folder)
    rename(folder, "encoder", "e.ort", ort[: len(ort) // 2])
    with pytest.raises(BundleError, match="onnxruntime refuses the graph"):
        edgecodec.load(folder)


@pytest.mark.parametrize("fingerprint", ["0" * 15, "0" * 17, "G" * 16, "A" * 16, "0" * 16 + "\n"])
def test_fingerprints_that_are_none(tmp_path: Path, fingerprint: str) -> None:
    folder = Path(shutil.copytree(PATHS, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text()) | {"fingerprint": fingerprint}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="manifest"):
        edgecodec.load(folder)


def call(*args: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, args)])


def test_the_command(tmp_path: Path) -> None:
    made = call(find_bundle(TINY), tmp_path / "phone", "--fixed-frames", 1, "--format", "ort", "--json")
    assert made.exit_code == 0, made.output
    report = json.loads(made.stdout)
    assert report["manifest"]["call_frames"] == 1
    assert report["after"]["graph_bytes"] == sum(file.stat().st_size for file in (tmp_path / "phone").glob("*.ort"))
    assert min(result["equal_codes"] for result in report["golden"]) == 1
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "phone")]).exit_code == 0
    text = call(TINY, tmp_path / "other", "--fixed-frames", 2, "--name", "calls").stdout
    assert text.startswith("verified: 100.00% of the golden codes are equal")
    assert edgecodec.load(tmp_path / "other").manifest.name == "calls"


def test_wrong_calls(tmp_path: Path, checkpoint: Path) -> None:
    for args, code, words in [
        ((TINY, tmp_path / "a"), 1, "is a bundle: give --fixed-frames or --format ort"),
        ((checkpoint, tmp_path / "a", "--fixed-frames", 1), 1, "is no bundle"),
        ((checkpoint, tmp_path / "a", "--format", "ort"), 1, "is no bundle"),
        ((TINY, tmp_path / "a", "--fixed-frames", 1, "--precision", "fp16"), 2, "keeps its weights"),
        ((TINY, tmp_path / "a", "--fixed-frames", 0), 2, "fixed-frames"),
        ((TINY, tmp_path / "a", "--fixed-frames", 65), 2, "fixed-frames"),
    ]:
        result = call(*args)
        assert result.exit_code == code, result.output
        assert words in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "a").exists()
