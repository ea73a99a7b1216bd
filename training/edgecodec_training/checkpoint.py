"""Checkpoints: one folder a step, safetensors and JSON, nothing pickled, never half-written.

step-00012000/
  checkpoint.json         step, configuration, ledger
  weights.safetensors     averaged weights: what is exported and evaluated
  training.safetensors    raw weights and optimizer moments: what a resumed run goes on with (may be left out)
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .config import Config, ConfigError, ModelConfig, from_dict
from .model import CodecModel


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names it."""


@dataclass
class Checkpoint:
    """What a folder holds."""

    step: int
    config: Config
    ledger: list[dict[str, Any]]
    weights: dict[str, Tensor]
    training: dict[str, Tensor] | None

    def save(self, folder: Path) -> Path:
        """Write `folder/step-…` beside a temporary name, then rename; older steps go once the new one stands."""
        folder.mkdir(parents=True, exist_ok=True)
        final = folder / f"step-{self.step:08d}"
        partial = folder / f".{final.name}.{os.getpid()}.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            save_file(self.weights, partial / "weights.safetensors")
            if self.training is not None:
                save_file(self.training, partial / "training.safetensors")
            facts = {"step": self.step, "config": dataclasses.asdict(self.config), "ledger": self.ledger}
            (partial / "checkpoint.json").write_text(json.dumps(facts, indent=1) + "\n")
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for older in folder.glob("step-*"):
            if older.name < final.name:
                shutil.rmtree(older)
        return final


def latest(folder: Path) -> Path | None:
    """The newest checkpoint under a run's folder, or the folder itself if it is one."""
    if (folder / "checkpoint.json").exists():
        return folder
    return max(folder.glob("step-*"), default=None)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder, or the newest one of a run's folder."""
    found = latest(folder)
    if found is None:
        raise CheckpointError(f"no checkpoint in {folder}: expected step-*/checkpoint.json")
    try:
        facts = json.loads((found / "checkpoint.json").read_text())
        config = from_dict(Config, facts["config"])
        training = found / "training.safetensors"
        return Checkpoint(
            int(facts["step"]),
            config,
            list(facts["ledger"]),
            load_file(found / "weights.safetensors"),
            load_file(training) if training.exists() else None,
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError, ConfigError, SafetensorError) as error:
        raise CheckpointError(f"{found}: not a usable checkpoint: {error}") from None


def build_model(config: ModelConfig, weights: dict[str, Tensor]) -> CodecModel:
    """The model of a configuration with the given weights, in evaluation mode."""
    model = CodecModel(config)
    put_weights(model, weights)
    return model.eval().requires_grad_(False)


def put_weights(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights into a module, or raise a CheckpointError in one line."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).partition("\n")[2].strip().partition("\n")[0]
        raise CheckpointError(f"weights do not fit the configuration: {first}") from None


def contiguous_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of the model's weights that safetensors accepts."""
    return {name: tensor.detach().clone().contiguous().cpu() for name, tensor in model.state_dict().items()}
