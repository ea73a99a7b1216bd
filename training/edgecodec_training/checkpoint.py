"""Checkpoints: one folder a step, safetensors and JSON, nothing pickled, never half-written.

step-00012000/
  checkpoint.json         step, configuration, ledger
  weights.safetensors     averaged weights: what is exported and evaluated
  training.safetensors    raw weights and optimizer moments: what a resumed run goes on with (may be left out)

Where more than `PART_BYTES` belong into one of the two, it is cut into `training-1-of-3.safetensors` and so on, for
machines that hand back small files only; a single tensor is never cut.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from edgecodec.durable import new_folder, settle, settle_within
from edgecodec.errors import CheckpointError, ConfigError, one_line
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .config import Config, ModelConfig, from_dict
from .ledger import LegEntry, from_json, to_json
from .model import CodecModel

FACTS_BYTES = 64 << 20  # of checkpoint.json
PART_BYTES = 15_000_000  # of tensors: with its header, a file stays below 16 MiB


@dataclass(frozen=True)
class Facts:
    """What checkpoint.json says."""

    step: int
    config: Config
    ledger: list[LegEntry]


class _RawFacts(msgspec.Struct):
    step: Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
    config: dict[str, Any]
    ledger: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=100_000)]


@dataclass
class Checkpoint:
    """What a folder holds."""

    step: int
    config: Config
    ledger: list[LegEntry]
    weights: dict[str, Tensor]
    training: dict[str, Tensor] | None

    @property
    def networks_only(self) -> bool:
        """Whether its codebooks are left out, and to be fitted anew."""
        return not any(name.startswith("quantizer.") for name in self.weights)

    def networks(self) -> Checkpoint:
        """Encoder and decoder alone, at step 0: what a run with another quantizer begins with."""
        kept = {name: tensor for name, tensor in self.weights.items() if not name.startswith("quantizer.")}
        return Checkpoint(0, self.config, [], kept, None)

    def save(self, folder: Path) -> Path:
        """Write `folder/step-…`, whole or not at all (see `edgecodec.durable`); older steps go once it stands.

        Raises:
            CheckpointError: it could not be written; what stood there before still does.
        """
        final = folder / step_name(self.step)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with new_folder(final) as partial:
                _save_parts(self.weights, partial, "weights")
                if self.training is not None:
                    _save_parts(self.training, partial, "training")
                facts = {"step": self.step, "config": dataclasses.asdict(self.config), "ledger": to_json(self.ledger)}
                (partial / "checkpoint.json").write_text(json.dumps(facts, indent=1) + "\n")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write {final}: {error}") from None
        for step, older in _steps(folder):
            if step < self.step:
                shutil.rmtree(older, ignore_errors=True)
        return final


def _save_parts(tensors: dict[str, Tensor], folder: Path, stem: str) -> None:
    """Write tensors to `stem.safetensors`, or in parts of at most `PART_BYTES`."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    for i, part in enumerate(parts, start=1):
        path = folder / (f"{stem}-{i}-of-{len(parts)}.safetensors" if len(parts) > 1 else f"{stem}.safetensors")
        save_file(part, path)
        path.chmod(0o644)  # as the umask would have it for checkpoint.json; safetensors keeps them to the owner


def _load_parts(folder: Path, stem: str) -> dict[str, Tensor] | None:
    """The tensors of `stem`, None if there is no such file."""
    whole = folder / f"{stem}.safetensors"
    if whole.exists():
        return load_file(whole)
    parts = sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
    if not parts:
        return None
    counts = {path.stem.rpartition("-")[2] for path in parts}
    count = counts.pop()
    if counts or not re.fullmatch(r"[1-9]\d{0,4}", count, re.ASCII) or len(parts) > int(count):
        raise CheckpointError(f"of how many files {stem}-… there are, their names contradict")
    wanted = [folder / f"{stem}-{i}-of-{count}.safetensors" for i in range(1, int(count) + 1)]
    if missing := [path.name for path in wanted if path not in parts]:
        raise CheckpointError(f"{missing[0]} is missing")
    tensors: dict[str, Tensor] = {}
    for path in wanted:
        own = load_file(path)
        if own.keys() & tensors.keys():
            raise CheckpointError(f"two files {stem}-… hold {min(own.keys() & tensors.keys())[:60]!r}")
        tensors |= own
    return tensors


def step_name(step: int) -> str:
    """Name of a step's folder in that of its run."""
    return f"step-{step:08d}"


def latest(folder: Path) -> Path | None:
    """The newest checkpoint under a run's folder, or the folder itself if it is one."""
    settle(folder)
    if (folder / "checkpoint.json").exists():
        return folder
    settle_within(folder)
    complete = [(step, path) for step, path in _steps(folder) if (path / "checkpoint.json").exists()]
    return max(complete)[1] if complete else None


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """The folders of steps in that of a run, and nothing else that lies there."""
    found = [(re.fullmatch(r"step-(\d{8,15})", path.name, re.ASCII), path) for path in folder.glob("step-*")]
    return [(int(name[1]), path) for name, path in found if name is not None and path.is_dir()]


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder, or the newest one of a run's folder.

    Raises:
        CheckpointError: there is none, or it is damaged or of another version; the message names it.
    """
    found = latest(folder)
    if found is None:
        raise CheckpointError(f"no checkpoint in {folder}: expected step-*/checkpoint.json")
    try:
        with (found / "checkpoint.json").open("rb") as file:
            facts = parse_facts(file.read(FACTS_BYTES + 1))
        weights = _load_parts(found, "weights")
        if weights is None:
            raise FileNotFoundError("weights.safetensors is missing")
        _check_fit(facts.config.model, weights)
        training = _load_parts(found, "training")
    except (OSError, ConfigError, CheckpointError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{found}: not a usable checkpoint: {error}") from None
    return Checkpoint(facts.step, facts.config, facts.ledger, weights, training)


def parse_facts(data: bytes) -> Facts:
    """What a checkpoint.json says.

    Raises:
        CheckpointError, ConfigError: it is none of ours, or a number is out of its range.
    """
    if len(data) > FACTS_BYTES:
        raise CheckpointError(f"checkpoint.json of more than {FACTS_BYTES} bytes")
    try:
        raw = msgspec.json.decode(data, type=_RawFacts)
        ledger = from_json(raw.ledger)
    except (msgspec.DecodeError, TypeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise CheckpointError(one_line(error, 200)) from None
    return Facts(raw.step, from_dict(Config, raw.config), ledger)


@functools.lru_cache(maxsize=4)  # a run reads its own again and again
def _shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Those of all weights of a model, which is not made."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in CodecModel(config).state_dict().items()}


def _check_fit(config: ModelConfig, weights: dict[str, Tensor]) -> None:
    """Refuse weights that are not those of the configuration, before a model of its size takes memory."""
    try:
        expected = _shapes(config)
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"its configuration makes no model: {str(error).partition(chr(10))[0][:200]}") from None
    found = {name: tensor.shape for name, tensor in weights.items()}
    if differing := sorted(name for name in expected.keys() | found if expected.get(name) != found.get(name)):
        raise CheckpointError(f"weights do not fit the configuration: {one_line(differing[0], 200)}")


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
