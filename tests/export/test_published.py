"""The check of published weights (`make published`), up to the download: there is no network here."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
import soundfile
import torch
from edgecodec.errors import CheckpointError
from edgecodec_export.adapters import encodec
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.sources import Published
from edgecodec_export.audio import synthetic_voice
from safetensors.torch import save_file

transformers = pytest.importorskip("transformers")

SCRIPT = Path(__file__).parents[1] / "adapters" / "published.py"
SIZES = {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "codebook_size": 64, "upsampling_ratios": [5, 4, 2]}
RATE, FRAME, FRAMES, STAGES = 24_000, 40, 90, 4


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A folder with a small model and a clip, and the codes that transformers has for it, `[stages, T]`."""
    folder = tmp_path_factory.mktemp("published")
    clip = synthetic_voice(FRAMES * FRAME / RATE, RATE)[: FRAMES * FRAME]
    soundfile.write(folder / "clip.wav", clip, RATE, subtype="FLOAT")
    torch.manual_seed(0)
    config = transformers.EncodecConfig(**SIZES, target_bandwidths=[600 * 6 * STAGES / 1000])
    model = transformers.EncodecModel(config).eval().requires_grad_(False)
    audio = torch.from_numpy(clip)[None, None]
    model.encoder.layers[-1].conv.bias -= model.encoder(audio).mean((0, 2))  # else they hardly vary
    rest = model.encoder(audio)[0].T
    for layer in model.quantizer.layers:
        layer.codebook.embed.copy_(0.6 * rest[torch.randperm(len(rest))[: SIZES["codebook_size"]]])
        rest = rest - layer.decode(layer.encode(rest.T[None]))[0].T
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"model_type": "encodec"}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    return folder, model.encode(audio).audio_codes[0, 0]


def exact(found: Published) -> AdaptedCodec:
    return encodec.from_transformers(found.config, found.weights, start="exact")


def said(capsys: pytest.CaptureFixture[str], folder: Path, checks: list[Any], adapt: Any = exact) -> Any:
    """Exit code and lines of the check of the small model."""
    model = published.Model(str(folder), adapt, checks)
    code = published.main(["--audio", str(folder / "clip.wav")], [model])
    return code, capsys.readouterr().out.splitlines()


def test_what_transformers_finds_passes(capsys: pytest.CaptureFixture[str], codes: tuple[Path, torch.Tensor]) -> None:
    folder, theirs = codes
    assert len(theirs[0].unique()) > 10  # not constant
    checks = [
        published.Codes("first", theirs[:, :10].tolist(), equal=0.95),
        published.Sum("first", STAGES, [int(theirs.sum())], off=0.0),
        published.Sum("first", 2, [int(n) for n in theirs[:2, :5].sum(0)], off=0.001, blocks=True),
    ]
    code, lines = said(capsys, folder, checks)
    assert code == 0
    assert [line.rpartition(": ")[2] for line in lines] == ["pass"] * 3
    first, summed = " ".join(map(str, theirs[0, :6].tolist())), int(theirs.sum())
    assert f"{folder}: 4 stages of the first clip: expected {first} …, found {first} …; 40 of 40 codes" in lines[0]
    assert f"sum of 4 stages of the first clip: expected {summed}, found {summed}; 0.00% off" in lines[1]


def test_other_numbers_fail(capsys: pytest.CaptureFixture[str], codes: tuple[Path, torch.Tensor]) -> None:
    folder, theirs = codes
    checks = [
        published.Codes("first", (theirs[:, :10] ^ 1).tolist(), equal=0.5),
        published.Codes("first", theirs[:, 1:11].tolist(), equal=0.9),  # late by a frame
        published.Codes("first", [[*theirs[0].tolist(), 5, 5, 5, 5, 5]], equal=0.95),  # of a longer clip
        published.Sum("first", STAGES, [int(1.05 * theirs.sum())], off=0.003),
        published.Sum("first", 2, [int(n) for n in theirs[:2, :5].sum(0) + 3], off=0.001, blocks=True),
    ]
    code, lines = said(capsys, folder, checks)
    assert code == 1
    assert [line.rpartition(": ")[2] for line in lines] == ["FAIL"] * 5


def test_the_start_of_a_stream_fails(capsys: pytest.CaptureFixture[str], codes: tuple[Path, torch.Tensor]) -> None:
    """Negative control: a codec that begins as streams do, not as the original."""
    folder, theirs = codes
    checks = [published.Codes("first", theirs[:, :10].tolist(), equal=0.9)]
    zero = lambda found: encodec.from_transformers(found.config, found.weights)  # noqa: E731
    assert said(capsys, folder, checks, zero)[0] == 1


def test_clips_of_another_rate_are_resampled(codes: tuple[Path, torch.Tensor]) -> None:
    codec = exact(published.read_published(str(codes[0])))
    seconds = np.arange(16_000, dtype=np.float32) / 16_000
    tone = (0.3 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    same = (0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    found, expected = published.latents_of(codec, (tone, 16_000)), published.latents_of(codec, (same, RATE))
    assert found.shape == expected.shape == (1, RATE // FRAME, 16)
    middle = slice(50, -50)
    assert torch.allclose(found[:, middle], expected[:, middle], atol=1e-3 * float(expected.abs().max()))
    assert published.latents_of(codec, (same[:-1], RATE)).shape == expected.shape  # filled up


def test_lines_of_several_codes_a_frame_are_put_in_order() -> None:
    """As SNAC has them, after side lines."""

    class Quantizer:
        def encode(self, latents: torch.Tensor, stages: int) -> torch.Tensor:
            side, first, second = [[7, 7]], [[1, 2]], [[10, 12], [11, 13]]
            return torch.tensor([side + first + second])

    class Codec:
        quantizer = Quantizer()
        contract = type("Contract", (), {"side": 1, "stage_widths": (1, 2, 4), "max_stages": 3})

    check = published.Codes("first", [[1, 2], [10, 11, 12, 13]], equal=1.0)
    assert check.found(Codec(), torch.zeros(0))[0]


def test_a_model_without_an_adapter_is_said_and_no_failure(
    capsys: pytest.CaptureFixture[str], codes: tuple[Path, torch.Tensor]
) -> None:
    def refuse(found: Published) -> AdaptedCodec:
        raise CheckpointError("EnCodec with audio_channels = 2 is not adapted yet")

    def contradict(found: Published) -> AdaptedCodec:
        raise CheckpointError("lacks the tensor x")

    assert said(capsys, codes[0], [], refuse) == (0, [f"{codes[0]}: not adapted"])
    assert said(capsys, codes[0], [], contradict) == (1, ["lacks the tensor x: FAIL"])


def without_network(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_without_network_each_model_is_one_line(tmp_path: Path) -> None:
    done = without_network(tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert done.stderr == ""
    assert len(lines) == len(published.MODELS) > 5
    for line, model in zip(lines, published.MODELS, strict=True):
        assert line.startswith(f"{model.source}: not in the local cache")
        assert line.endswith(": FAIL")
    assert without_network(tmp_path, "--only", "mimi").stdout.splitlines() == [lines[2]]
    assert without_network(tmp_path, "--only", "opus").returncode == 2


def test_a_clip_that_cannot_be_had_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    codes: tuple[Path, torch.Tensor],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    code, lines = said(capsys, codes[0], [published.Sum("last", 2, [1], off=0.1)])
    assert code == 1
    assert len(lines) == 1
    assert "dataset hf-internal-testing/librispeech_asr_dummy cannot be had" in lines[0]
    (tmp_path / "no.flac").write_bytes(b"no audio")
    model = published.Model(str(codes[0]), exact, [published.Sum("long", 2, [1], off=0.1)])
    assert published.main(["--audio", f"long={tmp_path / 'no.flac'}"], [model]) == 1
    assert "no.flac" in capsys.readouterr().out


def test_the_ends_of_a_dataset(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = []
    for i in range(3):
        file = io.BytesIO()
        soundfile.write(file, np.full(100 + i, 0.1 * i, np.float32), 16_000, format="FLAC")
        rows.append({"bytes": file.getvalue(), "path": f"{i}.flac"})
    parquet.write_table(pyarrow.table({"id": ["a", "b", "c"], "audio": rows}), tmp_path / "clips.parquet")
    clips = published.ends(tmp_path / "clips.parquet")
    assert {name: (len(audio), rate) for name, (audio, rate) in clips.items()} == {
        "first": (100, 16_000),
        "last": (102, 16_000),
    }
    assert np.allclose(clips["last"][0], 0.2, atol=1e-4)
    parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "other.parquet")
    for name in ("other.parquet", "none.parquet"):
        with pytest.raises(published.MissingError, match=f"{name}: no rows with audio"):
            published.ends(tmp_path / name)


def test_without_pyarrow_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(published.MissingError, match="needs pyarrow"):
        published.ends(Path("clips.parquet"))
