"""Configuration: frozen dataclasses beside the code they configure, loaded from TOML; unknown keys are errors.

Types and ranges (see `ranges`) are checked by msgspec.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import math
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from edgecodec.errors import ConfigError

from . import architectures
from .data import DataConfig
from .discriminators import DiscriminatorConfig
from .edge import EdgeConfig
from .losses import LossConfig
from .quantizer import QuantizerConfig
from .ranges import Count, Decay, Natural, NotNegative, Positive
from .seanet import SeanetConfig

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

T = TypeVar("T")


@dataclass(frozen=True)
class ModelConfig:
    """What the codec is: this part travels with a checkpoint and decides its shapes."""

    architecture: architectures.Name = "edge"
    sample_rate: Count = 24_000
    frame_size: Count = 320
    latent_dim: Count = 80
    edge: EdgeConfig = field(default_factory=EdgeConfig)
    seanet: SeanetConfig = field(default_factory=SeanetConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.sample_rate / self.frame_size

    def bitrate(self, n_stages: int) -> float:
        """Kbps at a stage count."""
        return self.frame_rate * n_stages * math.log2(self.quantizer.codebook_size) / 1000


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, constant rate, and a linear decay over the last `decay_steps` of the run."""

    learning_rate: NotNegative = 1e-3
    warmup_steps: Natural = 500
    decay_steps: Natural = 6_000
    betas: tuple[Decay, Decay] = (0.8, 0.99)
    weight_decay: NotNegative = 0.0
    clip_norm: Positive = 1.0
    ema_decay: Decay = 0.999


@dataclass(frozen=True)
class RunConfig:
    """How long a run is, and how often it reports (steps) and saves (minutes).

    A step takes `batch_size` crops of `clip_seconds`, split evenly over the processes of the run.
    """

    seed: Natural = 0
    steps: Count = 200_000
    batch_size: Count = 4
    clip_seconds: Positive = 0.8
    codebook_seconds: Positive = 400.0
    mixed_precision: bool = False  # bfloat16 in the networks; losses and codebooks stay float32
    compiled: bool = False  # torch.compile: minutes at the start, faster steps on a GPU
    log_every: Count = 50
    validate_every: Count = 2000
    save_minutes: NotNegative = 5.0


@dataclass(frozen=True)
class Config:
    """One TOML file."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def shares(self) -> dict[str, float]:
        """The weights of all losses on the decoded audio, as the balancer's shares."""
        return self.loss.weights | self.discriminators.weights


def load_config(name: str | Path) -> Config:
    """Read a TOML file, or a shipped configuration by its name (`edge`, `seanet`, …)."""
    path = Path(name)
    if path.suffix != ".toml":
        shipped = importlib.resources.files(__package__) / "configs"
        names = sorted(Path(entry.name).stem for entry in shipped.iterdir() if entry.name.endswith(".toml"))
        if str(name) not in names:
            raise ConfigError(f"no configuration {str(name)!r}: give a .toml file, or one of {', '.join(names)}")
        text = (shipped / f"{name}.toml").read_text()
    else:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read configuration {path}: {error}") from None
    try:
        return from_dict(Config, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from None


def override(config: Config, settings: Sequence[str]) -> Config:
    """A configuration with some values changed, each setting a line of TOML with a dotted key: `run.batch_size=64`."""
    values = dataclasses.asdict(config)
    for setting in settings:
        key, equals, value = setting.partition("=")
        *tables, name = key.strip().split(".")
        table = values
        for part in tables:
            table = table.get(part, {})
        if not equals or not isinstance(table, dict) or name not in table:
            raise ConfigError(f"cannot set {setting!r}: give table.key=value, for instance run.batch_size=64")
        try:
            table[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise ConfigError(f"cannot set {setting!r}: {value.strip()!r} is no TOML value") from None
    return from_dict(Config, values)


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """Build a configuration dataclass from plain values, nested tables included.

    Raises:
        ConfigError: a key that does not exist, a value of another type, or out of its range; in one line.
    """
    if isinstance(values, dict):  # what is no table, msgspec refuses
        _check_names(kind, values)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        key = where.strip(".`") or "the configuration"
        what = what.replace("`object`", "a table").replace("`array`", "a list").replace("`", "")
        raise ConfigError(f"{key}: {what[0].lower()}{what[1:]}") from None


def _check_names(kind: type, values: dict[str, Any], where: str = "") -> None:
    """Refuse unknown keys and choices, and list the known: msgspec drops the ones, and does not list the others."""
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        hint = hints.get(key)
        if hint is None:
            raise ConfigError(f"unknown key {where}{key}; known here: {', '.join(sorted(hints))}")
        if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
            raise ConfigError(f"{where}{key}: must be one of {', '.join(typing.get_args(hint))}, got {value!r}")
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            _check_names(typing.cast(type, hint), value, f"{where}{key}.")
