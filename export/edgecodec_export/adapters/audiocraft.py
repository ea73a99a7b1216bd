"""Files of audiocraft's `export_encodec`: the compression models of MusicGen and AudioGen, or of one's own training.

    best_state   tensors, of the names of the `encodec` package
    xp.cfg       the configuration of the training run, as YAML

A package of MusicGen may hold no more than the name of a model (`pretrained`). The configuration says what tensors do
not: the sample rate, and what layers see beyond a clip, which in audiocraft's configurations is zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from edgecodec.errors import CheckpointError

Yaml = dict[str, "str | list[str]"]
_MOST = 1 << 20  # characters of a configuration
_SIZES = {  # of transformers' configuration, and where audiocraft's has them
    "sampling_rate": "encodec.sample_rate",
    "audio_channels": "encodec.channels",
    "num_filters": "seanet.n_filters",
    "num_residual_layers": "seanet.n_residual_layers",
    "dilation_growth_rate": "seanet.dilation_base",
    "kernel_size": "seanet.kernel_size",
    "last_kernel_size": "seanet.last_kernel_size",
    "residual_kernel_size": "seanet.residual_kernel_size",
    "compress": "seanet.compress",
    "num_lstm_layers": "seanet.lstm",
    "hidden_size": "seanet.dimension",
    "codebook_dim": "seanet.dimension",
    "codebook_size": "rvq.bins",
}
_EXPECTED = {"compression_model": "encodec", "encodec.autoencoder": "seanet", "encodec.quantizer": "rvq"}
_EXPECTED |= {"seanet.activation": "ELU", "seanet.decoder.final_activation": "null"}
_OVERRIDES = ("seanet.decoder.trim_right_ratio", "seanet.decoder.final_activation")


def is_audiocraft(content: Mapping[str, Any]) -> bool:
    """Whether a file of torch is one of audiocraft's."""
    return "pretrained" in content or ("best_state" in content and "xp.cfg" in content)


def read_audiocraft(content: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration, as transformers would have it, and the tensors, of the names of `encodec`.

    Raises:
        CheckpointError: the name of a model only, a configuration that is missing something or of another model.
    """
    if "pretrained" in content:
        raise CheckpointError(f"{where}: holds no weights, only the name of a model: take {_hub_name(content)}")
    tensors, text = content["best_state"], content["xp.cfg"]
    if not isinstance(tensors, dict) or not isinstance(text, str) or len(text) > _MOST:
        raise CheckpointError(f"{where}: best_state and xp.cfg are no tensors and their configuration as YAML")
    return _as_transformers(_Values(flat_yaml(text), where)), tensors


def _hub_name(content: Mapping[str, Any]) -> str:
    name = str(content["pretrained"])[:80].removeprefix("//pretrained/")
    if re.fullmatch(r"dac_\d+khz", name):
        name = f"descript/{name}"
    return f"hf:{name}" if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else repr(name)


def flat_yaml(text: str) -> Yaml:
    """Scalars and lists of scalars of a YAML text in block style, by dotted keys; what is anything else is passed over.

    seanet:
      dimension: 128        {"seanet.dimension": "128", "seanet.ratios": ["8", "5"]}
      ratios:
      - 8
      - 5
    """
    values: Yaml = {}
    path: list[tuple[int, str]] = []  # keys that are open, with their indents
    for line in text.splitlines():
        body = line.lstrip(" ")
        if body.startswith("- ") and path:
            items = values[".".join(key for _, key in path)]
            if isinstance(items, list):
                items.append(body[2:].strip())
        elif found := re.fullmatch(r"([\w-]+):(?: +(.*))?", body.rstrip()):
            indent = len(line) - len(body)
            path = [(at, key) for at, key in path if at < indent] + [(indent, found[1])]
            values[".".join(key for _, key in path)] = found[2].strip("'\"") if found[2] else []
    return values


class _Values:
    """Values by their keys; what refers to another one is that one."""

    def __init__(self, values: Yaml, where: str) -> None:
        self.values, self.where = values, where

    def get(self, key: str) -> str | list[str]:
        """A value, which must be there."""
        name = key
        for _ in range(8):
            if name not in self.values:
                raise CheckpointError(f"{self.where}: xp.cfg lacks {name}")
            value = self.values[name]
            link = re.fullmatch(r"\$\{([\w.-]+)\}", value) if isinstance(value, str) else None
            if link is None:
                return value
            name = link[1]
        raise CheckpointError(f"{self.where}: xp.cfg: {key} refers to itself")

    def whole(self, key: str) -> int:
        """A whole number."""
        return self._number(key, self.get(key))

    def wholes(self, key: str) -> list[int]:
        """A list of whole numbers."""
        value = self.get(key)
        return [self._number(key, item) for item in (value if isinstance(value, list) else [value])]

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.get(key)
        if value not in ("true", "false"):
            raise CheckpointError(f"{self.where}: xp.cfg: {key} must be true or false, not {value!r:.60}")
        return value == "true"

    def _number(self, key: str, value: str | list[str]) -> int:
        if not (isinstance(value, str) and re.fullmatch(r"\d{1,7}", value)):
            raise CheckpointError(f"{self.where}: xp.cfg: {key} must be a whole number, not {value!r:.60}")
        return int(value)


def _as_transformers(cfg: _Values) -> dict[str, Any]:
    for key, expected in _EXPECTED.items():
        if (value := cfg.get(key)) != expected:
            raise CheckpointError(f"{cfg.where}: xp.cfg: {key} = {value!r:.60} is not adapted, only {expected}")
    for key in cfg.values:  # of one of the two networks, which the other has not
        if re.match(r"seanet\.(en|de)coder\.", key) and not key.startswith(_OVERRIDES):
            raise CheckpointError(f"{cfg.where}: xp.cfg: {key} is not adapted: encoder and decoder must be alike")
    config: dict[str, Any] = {ours: cfg.whole(key) for ours, key in _SIZES.items()}
    ratios, stages = cfg.wholes("seanet.ratios"), cfg.whole("rvq.n_q")
    if not ratios or min(ratios) < 1 or config["codebook_size"] < 2:
        raise CheckpointError(f"{cfg.where}: xp.cfg: seanet.ratios or rvq.bins cannot be")
    frame_rate = math.ceil(config["sampling_rate"] / math.prod(ratios))
    trim = cfg.get("seanet.decoder.trim_right_ratio")
    return config | {
        "upsampling_ratios": ratios,
        "use_causal_conv": cfg.flag("encodec.causal"),
        "normalize": cfg.flag("encodec.renormalize"),
        "norm_type": cfg.get("seanet.norm"),
        "pad_mode": cfg.get("seanet.pad_mode"),
        "use_conv_shortcut": not cfg.flag("seanet.true_skip"),
        "trim_right_ratio": 1.0 if trim == "1.0" else trim,
        # Half a stage more than the last one takes, which rounds down to it.
        "target_bandwidths": [(stages + 0.5) * frame_rate * math.log2(config["codebook_size"]) / 1000],
    }
