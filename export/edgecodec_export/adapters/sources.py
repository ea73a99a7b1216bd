"""What `edgecodec export` is given: a checkpoint of this project, or somebody else's codec in one of these layouts.

| layout | configuration | tensors |
|---|---|---|
| transformers | `config.json` with `model_type` | `model.safetensors`, in parts with an index, or `pytorch_model.bin` |
| SNAC | `config.json` with `vq_strides` | `pytorch_model.bin` |
| descript-audio-codec | in the file: `metadata.kwargs` | `state_dict` |
| audiocraft | in the file: `xp.cfg` | `best_state` |
| encodec, Kyutai's Mimi | none: the tensors' names and shapes | the file |

The kind is read from the configuration or the tensors, never from a file's name. Files of torch are read with
`weights_only`, which runs no code that they hold.
"""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from edgecodec.errors import CheckpointError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .audiocraft import is_audiocraft, read_audiocraft
from .hub import PREFIX, download, licence_of
from .weights import Weights

MAX_CONFIG = 1 << 20  # bytes
TRANSFORMERS = ("encodec", "dac", "mimi")  # values of `model_type`
_SAFETENSORS, _INDEX, _BIN = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


@dataclass(frozen=True)
class Published:
    """Somebody else's codec as it was found: what kind, its configuration and its tensors."""

    kind: str  # encodec, dac, mimi, snac
    layout: str  # transformers, original
    config: dict[str, Any]
    weights: Weights
    origin: dict[str, str] = field(default_factory=dict)  # hub name, revision and licence, where they are known
    license_file: str = ""  # text of the LICENSE that lies beside the weights

    def license_text(self) -> bytes:
        """What a bundle's LICENSE says of these weights."""
        if self.license_file:
            return self.license_file.encode()
        named = self.origin.get("licence")
        what = f"licence {named}" if named else "a licence that was not stated where they were found"
        text = f"The weights of this bundle are other people's, under {what}. The graphs around them: Apache-2.0.\n"
        return text.encode()


def is_own(source: Path) -> bool:
    """Whether a path is a checkpoint, or the folder of a training run, of this project."""
    return source.is_dir() and ((source / "checkpoint.json").exists() or any(source.glob("step-*/checkpoint.json")))


def read_published(source: str) -> Published:
    """Read a codec from a folder, a file, or a hub name (`hf:owner/name`).

    Raises:
        CheckpointError: nothing there, an unknown kind, files that are damaged or hold more than tensors.
    """
    if source.startswith(PREFIX):
        snapshot = download(source)
        found = read_published(str(snapshot.folder))
        origin = {"hub": source.removeprefix(PREFIX).partition("@")[0], "revision": snapshot.revision}
        return replace(found, origin=origin | found.origin)
    path = Path(source)
    if not path.exists():
        raise CheckpointError(f"{source}: no such file or folder; models of the hub are hf:owner/name")
    folder = path if path.is_dir() else path.parent
    config = _config(folder / "config.json") if (folder / "config.json").exists() else None
    if path.is_dir():
        if config is None:
            raise CheckpointError(f"{source}: neither checkpoint.json nor config.json is there: no model")
        tensors = _folder_tensors(folder)
    else:
        tensors = _file_tensors(path)
    licence = licence_of(folder) if path.is_dir() else ""
    found = _recognised(source, config, tensors, {"licence": licence} if licence else {})
    return replace(found, license_file=_license_file(folder)) if path.is_dir() else found


def _recognised(
    source: str, config: dict[str, Any] | None, content: dict[str, Any], origin: dict[str, str]
) -> Published:
    """The kind of a codec, from its configuration or what its file holds."""
    if isinstance(content.get("state_dict"), dict):  # descript-audio-codec carries its configuration along
        kwargs = (content.get("metadata") or {}).get("kwargs") if isinstance(content.get("metadata"), dict) else None
        if not isinstance(kwargs, dict):
            raise CheckpointError(f"{source}: a state_dict without metadata.kwargs, which say the sizes of a DAC")
        return Published("dac", "original", kwargs, _weights(content["state_dict"], source), origin)
    if is_audiocraft(content):
        settings, tensors = read_audiocraft(content, source)
        return Published("encodec", "original", settings, _weights(tensors, source), origin)
    weights = _weights(content, source)
    if config is not None and "model_type" in config:
        kind = config["model_type"]
        if kind not in TRANSFORMERS:
            raise CheckpointError(f"{source}: model_type {str(kind)[:60]!r}; known here: {', '.join(TRANSFORMERS)}")
        return Published(kind, "transformers", config, weights, origin)
    if config is not None and "vq_strides" in config:
        return Published("snac", "original", config, weights, origin)
    names = weights.names
    if any(name.startswith("quantizer.rvq_first.") for name in names):
        return Published("mimi", "original", {}, weights, origin)
    if any(name.startswith("quantizer.vq.layers.") for name in names):
        return Published("encodec", "original", {}, weights, origin)
    raise CheckpointError(f"{source}: no codec that is known here: its config.json names none, nor do its tensors")


def _weights(tensors: Any, source: str) -> Weights:
    wrong = [name for name, tensor in tensors.items() if not (isinstance(name, str) and isinstance(tensor, Tensor))]
    if wrong or not tensors:
        raise CheckpointError(
            f"{source}: holds {str(wrong[0])[:60]!r}, no tensor" if wrong else f"{source}: no tensors"
        )
    return Weights(tensors, source)


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise CheckpointError(f"{path}: larger than {MAX_CONFIG >> 20} MiB, no configuration")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: no JSON object")
    return values


def _license_file(folder: Path) -> str:
    path = next((path for path in sorted(folder.glob("LICENSE*")) if path.is_file()), None)
    try:
        return "" if path is None or path.stat().st_size > MAX_CONFIG else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _folder_tensors(folder: Path) -> dict[str, Any]:
    """All tensors of a model's folder; safetensors before torch's own files."""
    if (folder / _INDEX).exists():
        parts = _config(folder / _INDEX).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(p, str) and Path(p).name == p for p in parts.values()):
            raise CheckpointError(f"{folder / _INDEX}: no weight_map of plain file names")
        return {name: t for part in sorted(set(parts.values())) for name, t in _file_tensors(folder / part).items()}
    files = [folder / _SAFETENSORS] if (folder / _SAFETENSORS).exists() else sorted(folder.glob("*.safetensors"))
    files = files or [folder / _BIN]
    if len(files) > 1:
        raise CheckpointError(f"{folder}: several safetensors files and no index: give the file")
    return _file_tensors(files[0])


def _file_tensors(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:] == b"{":  # the length of its JSON header comes before it
            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols, which it reads or refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: is damaged, or holds more than tensors, which is not read: code in it could run"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or truncated: {' '.join(str(error).split())[:200]}") from None
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    return content
