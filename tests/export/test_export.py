"""`edgecodec export` from a checkpoint to a bundle that the runtime accepts, and all the ways it refuses."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import onnx
import pytest
from edgecodec.commands.main import app
from edgecodec.errors import ExportError
from edgecodec_export import assemble
from edgecodec_export.assemble import Request, export_bundle
from edgecodec_export.convert import Converted
from edgecodec_training.model import CodecModel
from onnx import numpy_helper
from typer.testing import CliRunner

AUDIO = Path(__file__).parents[1] / "audio"


def invoke(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_bundle_holds_what_it_promises(bundle: Path) -> None:
    graphs = {f"{name}.onnx" for name in ("encoder", "quantizer_encode", "quantizer_decode", "decoder")}
    assert {f.name for f in bundle.iterdir()} == graphs | {"manifest.json", "golden.npz", "MODEL_CARD.md", "LICENSE"}
    m = edgecodec.load(bundle).manifest
    assert (m.name, m.architecture, m.sample_rate, m.frame_size, m.latent_dim) == ("tiny", "edge", 16_000, 80, 8)
    assert (m.quantizer.kind, m.quantizer.codebook_size, m.quantizer.max_stages) == ("rvq", 32, 4)
    assert (m.latency.buffering, m.latency.algorithmic) == (80, 80)
    assert m.parameters.quantizer == 4 * 32 * 8
    assert m.macs_per_second.quantizer == 200 * (1 + 3 + 3 + 3) * 32 * 8
    assert m.training["step"] == 7
    assert m.precision == "fp32"
    for graph in graphs:
        assert [(o.domain, o.version) for o in onnx.load(bundle / graph).opset_import] == [("", m.opset)], graph
    assert 0 <= m.parity["latents_error"] < 1e-4
    assert 0 <= m.parity["audio_error"] < 1e-5
    assert m.parity["codes_equal"] > 0.99
    assert m.parity["streamed_audio_error"] == 0
    assert (bundle / "golden.npz").stat().st_size < 300_000


def test_golden_vectors_pass_in_the_runtime(bundle: Path) -> None:
    result = invoke("verify", bundle)
    assert result.exit_code == 0, result.output
    with np.load(bundle / "golden.npz") as golden:
        assert {"audio", "codes_1", "codes_2", "codes_4", "decoded_4"} <= set(golden.files)
        assert golden["audio"].shape == golden["decoded_1"].shape == (1, 1, 6400)


def test_model_card_tells_latency_size_training_and_limits(bundle: Path) -> None:
    card = (bundle / "MODEL_CARD.md").read_text()
    for text in ("5.0 ms (80 samples)", "## What it is bad at", "3.0 h in all", "0.2 h on aarch64, cpu", "1 to 4 kbps"):
        assert text in card, card
    assert str(Path.home()) not in card


def test_whole_command(exported_fp16: tuple[Path, dict[str, Any]], checkpoint: Path) -> None:
    target, report = exported_fp16
    manifest = json.loads((target / "manifest.json").read_text())
    assert report["manifest"] == manifest
    assert (report["bundle"], report["bytes"]) == (str(target), sum(f.stat().st_size for f in target.iterdir()))
    assert (manifest["name"], manifest["precision"]) == ("er", "fp16-storage")
    fixed, files = manifest["quality"]
    assert (fixed["kind"], fixed["clips"], fixed["kbps"], fixed["stages"]) == ("speech", 1, 3.0, 3)
    assert (files["clips"], files["stages"]) == (1, None) and files["kbps"] == pytest.approx(3.0, rel=0.05)
    card = (target / "MODEL_CARD.md").read_text()
    assert "- singing" in card and "- A. Singer (CC BY)" in card and "PESQ-WB" in card
    assert invoke("verify", target).exit_code == 0

    result = invoke("export", checkpoint, target)
    assert result.exit_code == 1
    assert "exists; -f replaces it" in result.output


def test_replaces_a_bundle_but_nothing_else(
    checkpoint: Path, bundle: Path, converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="replaces only bundles"):
        export_bundle(Request(checkpoint, other, "x", force=True))
    assert (other / "thesis.txt").exists()
    monkeypatch.setattr(assemble, "convert", lambda *_: converted)
    copy = Path(shutil.copytree(bundle, tmp_path / "bundles" / "copy"))
    result = invoke("export", checkpoint, copy, "-f", "--name", "again")
    assert result.exit_code == 0 and "verified" in result.output, result.output
    assert edgecodec.load(copy).manifest.name == "again"
    assert (copy / "encoder.onnx").read_bytes() == (bundle / "encoder.onnx").read_bytes()
    assert [f.name for f in copy.parent.iterdir()] == ["copy"]


@pytest.mark.parametrize(
    ("checkpoint_files", "message"),
    [({}, "no checkpoint"), ({"checkpoint.json": "{}"}, "not a usable checkpoint")],
)
def test_unusable_checkpoint(tmp_path: Path, checkpoint_files: dict[str, str], message: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name, text in checkpoint_files.items():
        (folder / name).write_text(text)
    result = invoke("export", folder, tmp_path / "out")
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_weights_of_another_configuration(checkpoint: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(checkpoint, tmp_path / "run"))
    facts = json.loads((run / "checkpoint.json").read_text())
    facts["config"]["model"]["latent_dim"] = 16
    (run / "checkpoint.json").write_text(json.dumps(facts))
    result = invoke("export", run, tmp_path / "out")
    assert result.exit_code == 1
    assert "weights do not fit the configuration" in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("notes.toml", "limits = 3", "limits must be a text"),
        ("notes.toml", 'limit = "x"', "a table with the keys summary, data, limits"),
        ("notes.json", "{", "notes.json"),
    ],
)
def test_notes_are_checked(checkpoint: Path, tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_text(text)
    result = invoke("export", checkpoint, tmp_path / "out", "--notes", tmp_path / file)
    assert result.exit_code == 1
    assert message in result.output


def scale_weight(graph: onnx.ModelProto, name: str, factor: float) -> None:
    tensor = next(t for t in graph.graph.initializer if t.name.startswith(name))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))


def forget_state(graph: onnx.ModelProto) -> None:
    """The next state is zero, whatever happened."""
    result = next(node for node in graph.graph.node if "next_state" in node.output)
    result.output[list(result.output).index("next_state")] = "kept"
    graph.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
    graph.graph.node.append(onnx.helper.make_node("Mul", ["kept", "zero"], ["next_state"]))


SABOTAGE: dict[str, tuple[str, Callable[[onnx.ModelProto], None], str]] = {
    "an encoder weight is another": ("encoder", lambda g: scale_weight(g, "embed.bias", 1.5), "latents differ"),
    "a codebook entry is another": (
        "quantizer_encode",
        lambda g: scale_weight(g, "biases", 0.5),
        "more error than torch's",
    ),
    "tables disagree": ("quantizer_decode", lambda g: scale_weight(g, "table", 1.01), "audio differs"),
    "a decoder weight is another": ("decoder", lambda g: scale_weight(g, "embed.bias", 1.5), "audio differs"),
    "the encoder forgets": ("encoder", forget_state, "streamed codes differ"),
    "the decoder forgets": ("decoder", forget_state, "streamed audio differs"),
}


@pytest.mark.parametrize("fault", SABOTAGE)
def test_failed_verification_leaves_nothing(
    fault: str, converted: Converted, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, spoil, message = SABOTAGE[fault]

    def faulty(*_: object) -> Converted:
        graph = onnx.ModelProto()
        graph.CopyFrom(converted.graphs[part])
        spoil(graph)
        return dataclasses.replace(converted, graphs=converted.graphs | {part: graph})

    monkeypatch.setattr(assemble, "convert", faulty)
    result = invoke("export", checkpoint, tmp_path / "new" / "out")
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_failed_verification_keeps_the_bundle_that_was_there(
    bundle: Path, converted: Converted, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(converted.graphs["decoder"])
    scale_weight(graph, "embed.bias", 1.5)
    monkeypatch.setattr(
        assemble, "convert", lambda *_: dataclasses.replace(converted, graphs=converted.graphs | {"decoder": graph})
    )
    before = (bundle / "manifest.json").read_bytes()
    assert invoke("export", checkpoint, bundle, "-f").exit_code == 1
    assert (bundle / "manifest.json").read_bytes() == before
    assert [f.name for f in bundle.parent.iterdir()] == ["tiny"]


def test_what_was_exported_here_has_no_trial(
    converted: Converted, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has run already; elsewhere it is a stranger's."""
    monkeypatch.setattr(assemble, "convert", lambda *_: converted)
    monkeypatch.delenv("EDGECODEC_TRUST", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    started, run = [], subprocess.run
    monkeypatch.setattr("edgecodec.trial.subprocess.run", lambda *a, **k: started.append(a) or run(*a, **k))
    assert invoke("export", checkpoint, tmp_path / "out").exit_code == 0
    edgecodec.load(tmp_path / "out")
    assert not started
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    edgecodec.load(tmp_path / "out")
    assert len(started) == 1


@pytest.mark.parametrize(("missing", "extra"), [("torch", "export"), ("onnx", "export"), ("pesq", "eval")])
def test_missing_extra_is_named(missing: str, extra: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from edgecodec.commands.main import main; main()"
    command = [sys.executable, "-c", code, "export", "run", str(tmp_path / "out")]
    if missing == "pesq":
        command += ["--valid", str(AUDIO)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"needs {missing}: pip install 'edgecodec[{extra}]'")
    assert "Traceback" not in done.stderr


def test_weights_beyond_float16_are_refused(
    tiny_model: Callable[..., CodecModel], save_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_model()
    next(p for p in model.encoder.parameters() if p.ndim > 1)[0, 0] = 1e6
    run = save_checkpoint(model, tmp_path / "run")
    result = invoke("export", run, tmp_path / "out", "--precision", "fp16")
    assert result.exit_code == 1
    assert "float16" in result.output
    assert not (tmp_path / "out").exists()
