"""Tiny models of every architecture and quantizer, trained by nobody, and a bundle of one of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from edgecodec.commands.main import app
from edgecodec_export.assemble import Request, export_bundle
from edgecodec_export.audio import synthetic_voice
from edgecodec_export.convert import Converted, convert
from edgecodec_training.checkpoint import Checkpoint, contiguous_state
from edgecodec_training.config import Config, ModelConfig, from_dict
from edgecodec_training.ledger import LegEntry
from edgecodec_training.model import CodecModel
from onnx import ModelProto
from streamed import Run, in_onnxruntime
from typer.testing import CliRunner

AUDIO = Path(__file__).parents[1] / "audio"
RATE = 16_000

TINY: dict[str, Any] = {
    "sample_rate": RATE,
    "frame_size": 80,
    "latent_dim": 8,
    "edge": {"channels": 16, "encoder_blocks": 1, "decoder_blocks": 1},
    "quantizer": {"codebook_size": 32, "max_stages": 4, "dropout_stages": [1, 2, 4]},
}


Runner = Callable[[ModelProto], Run]


def _tiny_model(changes: dict[str, Any] | None = None) -> CodecModel:
    """A model that does something everywhere: layers that start at zero are not, codebooks fit its latents."""
    torch.manual_seed(0)
    model = CodecModel(from_dict(ModelConfig, TINY | (changes or {}))).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.abs().sum():
            parameter.normal_(0, 0.1)
    audio = torch.from_numpy(synthetic_voice(4.0, RATE))[None, None]
    latents = model.encode_latents(audio)[0]
    model.quantizer.initialise(latents + 0.1 * latents.std() * torch.randn_like(latents))
    return model


def _save_checkpoint(model: CodecModel, folder: Path, ledger: list[LegEntry] | None = None) -> Path:
    return Checkpoint(7, Config(model=model.config), ledger or [], contiguous_state(model), None).save(folder)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., CodecModel]:
    """`tiny_model(changes)`: a tiny `edge` model, or another by changes to its configuration."""
    return _tiny_model


@pytest.fixture(scope="session")
def converted() -> Converted:
    """The graphs of the tiny `edge` model. To convert takes seconds: what can be seen in one copy is."""
    return convert(_tiny_model())


@pytest.fixture(scope="session")
def save_checkpoint() -> Callable[..., Path]:
    """`save_checkpoint(model, folder)`: where it was saved."""
    return _save_checkpoint


@pytest.fixture(scope="session")
def runner() -> Runner:
    """`runner(graph)(*inputs)`: outputs of a graph in onnxruntime, on one thread."""

    return in_onnxruntime


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny `edge` model, whose ledger tells of two legs."""
    legs = [
        LegEntry(0, "x86_64, cpu", 4, audio_seconds=7200.0, wall_seconds=1800.0),
        LegEntry(4, "aarch64, cpu", 7, audio_seconds=3600.0, wall_seconds=900.0),
    ]
    return _save_checkpoint(_tiny_model(), tmp_path_factory.mktemp("run"), legs)


@pytest.fixture(scope="session")
def exported_fp16(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The bundle that the command makes of `checkpoint` in fp16, with scores and notes, and what it reported."""
    folder = tmp_path_factory.mktemp("fp16")
    (folder / "notes.toml").write_text('limits = "singing"\nattributions = ["A. Singer (CC BY)"]\n')
    (folder / "clips").mkdir()
    speech, rate = soundfile.read(AUDIO / "speech_es.flac")
    soundfile.write(folder / "clips" / "a.wav", speech[: 2 * rate], rate)
    target = folder / "deep" / "er"
    options = ["--precision", "fp16", "--valid", folder / "clips", "--notes", folder / "notes.toml", "--json"]
    result = CliRunner().invoke(app, ["export", str(checkpoint), str(target), *map(str, options)])
    assert result.exit_code == 0, result.output
    return target, json.loads(result.stdout)


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported bundle of `checkpoint`."""
    target = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(Request(checkpoint, target, "tiny", clip=AUDIO / "speech_ro.flac"))
    return target
