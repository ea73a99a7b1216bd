"""Checkpoint folders: nothing is lost between two of them, and nothing else that lies there is taken for one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from edgecodec_training.checkpoint import Checkpoint, latest, load_checkpoint
from edgecodec_training.config import Config

CONFIG = Config()


def save(folder: Path, step: int, value: float = 0.0) -> Path:
    return Checkpoint(step, CONFIG, [], {"w": torch.tensor([value])}, None).save(folder)


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
    assert load_checkpoint(tmp_path).weights["w"] == 2.0 and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "step-00000007").rename(tmp_path / ".step-00000007.edgecodec-old")  # killed between two renames
    assert latest(tmp_path) == tmp_path / "step-00000007"
    assert load_checkpoint(tmp_path).weights["w"] == 2.0
    (tmp_path / "step-00000007").rename(tmp_path / ".step-00000007.edgecodec-old")
    assert load_checkpoint(tmp_path / "step-00000007").weights["w"] == 2.0
