"""Checkpoint folders: nothing is lost between two of them, and nothing else that lies there is taken for one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from edgecodec.errors import CheckpointError, ConfigError
from edgecodec_training import checkpoint
from edgecodec_training.checkpoint import Checkpoint, contiguous_state, latest, load_checkpoint, parse_facts
from edgecodec_training.config import Config, from_dict, override
from edgecodec_training.model import CodecModel

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus" / "checkpoint"
CONFIG = from_dict(
    Config,
    {
        "model": {
            "frame_size": 16, "latent_dim": 8,
            "edge": {"channels": 8, "encoder_blocks": 1, "decoder_blocks": 1, "waveform_bins": 8, "noise_bands": 4},
            "quantizer": {"codebook_size": 4, "max_stages": 2, "dropout_stages": [1]},
        }
    },
)  # fmt: skip
WEIGHTS = contiguous_state(CodecModel(CONFIG.model))
FIRST = next(name for name, tensor in WEIGHTS.items() if tensor.is_floating_point() and tensor.ndim)


def save(folder: Path, step: int, value: float = 0.0, parts: dict[str, torch.Tensor] | None = None) -> Path:
    weights = WEIGHTS | {FIRST: torch.full_like(WEIGHTS[FIRST], value)}
    return Checkpoint(step, CONFIG, [], weights if parts is None else parts, None).save(folder)


def test_notes_beside_checkpoints_do_not_block_a_resume(tmp_path: Path) -> None:
    assert save(tmp_path, 7).name == "step-00000007"
    (tmp_path / "step-notes.txt").write_text("lower the rate at 9")
    (tmp_path / "step-notes").mkdir()
    (tmp_path / "step-99999999").mkdir()  # what a user began to copy
    assert load_checkpoint(tmp_path).step == 7
    save(tmp_path, 8)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000008", "step-99999999", "step-notes", "step-notes.txt"]


def test_steps_of_nine_digits_come_after_those_of_eight(tmp_path: Path) -> None:
    save(tmp_path, 99_999_999)
    kept = shutil.copytree(tmp_path, tmp_path.with_name("kept"))
    save(tmp_path, 100_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["step-100000000"]
    shutil.copytree(kept / "step-99999999", tmp_path / "step-99999999")
    assert load_checkpoint(tmp_path).step == 100_000_000


def test_a_step_that_is_saved_twice_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 7, 1.0)
    save(tmp_path, 7, 2.0)
    assert load_checkpoint(tmp_path).weights[FIRST].flatten()[0] == 2.0 and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "step-00000007").rename(tmp_path / ".step-00000007.edgecodec-old")  # killed between two renames
    assert latest(tmp_path) == tmp_path / "step-00000007"
    assert load_checkpoint(tmp_path).weights[FIRST].flatten()[0] == 2.0
    (tmp_path / "step-00000007").rename(tmp_path / ".step-00000007.edgecodec-old")
    assert load_checkpoint(tmp_path / "step-00000007").weights[FIRST].flatten()[0] == 2.0


@pytest.mark.parametrize("case", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_facts_that_once_gave_tracebacks(case: Path) -> None:
    with pytest.raises((CheckpointError, ConfigError)) as refusal:
        parse_facts(case.read_bytes())
    assert str(refusal.value).isprintable()


def test_facts_are_checked_one_by_one(tmp_path: Path) -> None:
    path = save(tmp_path, 7) / "checkpoint.json"
    facts = json.loads(path.read_text())
    leg = {"first_step": 0, "machine": "x"}
    bad = [
        {"step": -1}, {"step": 1e300}, {"step": "7"}, {"step": 1 << 40}, {"ledger": {}}, {"ledger": [{}]},
        {"ledger": [leg | {"last_step": "x"}]}, {"ledger": [leg | {"\x1b": 1}]}, {"config": []}, {"config": {"a": 1}},
    ]  # fmt: skip
    for change in bad:
        path.write_text(json.dumps(facts | change))
        with pytest.raises(CheckpointError) as refusal:
            load_checkpoint(tmp_path)
        assert str(refusal.value).isprintable(), change
    path.write_text(json.dumps(facts | {"ledger": [leg]}))
    assert load_checkpoint(tmp_path).ledger[0].machine == "x"
    path.write_text("[" * 100_000)
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change", [{"latent_dim": 65_536}, {"edge": {"channels": 60_000}}, {"quantizer": {"max_stages": 128}}]
)
def test_a_model_that_its_weights_are_not_takes_no_memory(tmp_path: Path, change: dict[str, object]) -> None:
    path = save(tmp_path, 7) / "checkpoint.json"
    facts = json.loads(path.read_text())
    for key, value in change.items():
        place = facts["config"]["model"]
        place[key] = place[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="weights do not fit the configuration"):
        load_checkpoint(tmp_path)


def test_parts_are_as_many_as_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PART_BYTES", 500)
    folder = save(tmp_path, 7)
    parts = sorted(folder.glob("weights-*"))
    assert len(parts) > 2 and load_checkpoint(tmp_path).weights.keys() == WEIGHTS.keys()
    for name in ("weights-1-of-99999999999.safetensors", "weights-1-of-.safetensors", "weights-x-of-2.safetensors"):
        shutil.copy(parts[0], folder / name)
        with pytest.raises(CheckpointError, match="their names contradict"):
            load_checkpoint(tmp_path)
        (folder / name).unlink()
    shutil.copy(parts[0], parts[1])
    with pytest.raises(CheckpointError, match="two files weights-… hold"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "setting",
    [
        "run.steps=1e400", "run.steps=99999999999999999999", "run.clip_seconds=inf", "run.clip_seconds=1e300",
        "run.seed=18446744073709551616", "run.batch_size=1099511627776", "run.save_minutes=inf",
        "optimizer.learning_rate=inf", "optimizer.clip_norm=nan", "data.gain_db=[-1e300, 1e300]",
        "data.threads=1000000", "data.longest_seconds=inf", "data.shuffle_minutes=inf", "data.kind_weights={a=inf}",
        "model.sample_rate=0", "model.sample_rate=1e9", "model.frame_size=1000000000", "model.latent_dim=1000000000",
        "model.edge.encoder_blocks=100000000", "model.edge.channels=100000000", "model.quantizer.max_stages=1000000",
        "model.quantizer.codebook_size=1000000000", "model.seanet.strides=[]", "model.seanet.strides=[1000000]",
        "model.seanet.residual_units=1000", "loss.stft_windows=[1000000000]", "loss.mel=inf",
        "discriminators.channels=100000000", "discriminators.start_step=99999999999999999999",
        "run.steps=5\nrun=7", "run.steps=" + "[" * 100_000, "run.steps=" + "{a=" * 100_000, "run.steps=" + "9" * 5000,
        "run." + "a." * 100_000 + "b=1", "run.steps='\x1b[2J'", "\x1b=1", "=", "run.steps=", "run.steps=1979-05-27",
    ],
    ids=lambda setting: ascii(setting)[:50],
)  # fmt: skip
def test_every_setting_has_a_range(setting: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        override(CONFIG, [setting])
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 700
