"""Configuration: frozen dataclasses beside the code they configure, loaded from TOML; unknown keys are errors.

Types and ranges (see `ranges`) are checked by msgspec.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import math
import re
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from edgecodec.errors import ConfigError, one_line
from msgspec import Meta

from . import architectures
from .data import DataConfig
from .discriminators import DiscriminatorConfig
from .edge import EdgeConfig
from .losses import LossConfig
from .quantizer import QuantizerConfig
from .ranges import Count, Decay, Natural, NotNegative, Positive, Seconds, Width
from .seanet import SeanetConfig

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable

    import tomllib
else:  # pragma: no cover
    from importlib.abc import Traversable

    import tomli as tomllib

T = TypeVar("T")

TOML_BYTES = 1 << 20
_DEEPEST = 64  # brackets within brackets: tomllib calls itself for each
_NO_TOML = (tomllib.TOMLDecodeError, RecursionError, OverflowError)


@dataclass(frozen=True)
class ModelConfig:
    """What the codec is: this part travels with a checkpoint and decides its shapes."""

    architecture: architectures.Name = "edge"
    sample_rate: Annotated[int, Meta(ge=1000, le=768_000)] = 24_000
    frame_size: Width = 320
    latent_dim: Width = 80
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

    seed: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)] = 0
    steps: Annotated[int, Meta(ge=1, le=(1 << 32) - 1)] = 200_000
    batch_size: Width = 4
    clip_seconds: Seconds = 0.8
    codebook_seconds: Annotated[float, Meta(gt=0, le=1e6)] = 400.0
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
    return parse_config(read_text(name, importlib.resources.files(__package__) / "configs"), str(name))


def read_text(name: str | Path, shipped: Traversable) -> str:
    """The text of a TOML file, or of one of the folder `shipped` by its name.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = Path(name)
    if path.suffix != ".toml":
        names = sorted(Path(entry.name).stem for entry in shipped.iterdir() if entry.name.endswith(".toml"))
        if str(name) not in names:
            raise ConfigError(f"no configuration {str(name)!r}: give a .toml file, or one of {', '.join(names)}")
        return (shipped / f"{name}.toml").read_text()
    try:
        with path.open("rb") as file:
            data = file.read(TOML_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read configuration {path}: {error}") from None
    if len(data) > TOML_BYTES:
        raise ConfigError(f"cannot read configuration {path}: more than {TOML_BYTES} bytes")
    return text


def parse_config(text: str, name: str) -> Config:
    """The configuration that a text in TOML is; `name` says where it came from.

    Raises:
        ConfigError: not TOML, or as `from_dict`.
    """
    return from_dict(Config, parse_toml(text, name))


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """The tables of a text in TOML; `name` says where it came from.

    Raises:
        ConfigError: not TOML.
    """
    try:
        return _toml(text)
    except _NO_TOML as error:
        raise ConfigError(f"{name}: not valid TOML: {one_line(error)}") from None


def override(config: Config, settings: Sequence[str]) -> Config:
    """A configuration with some values changed, each setting a line of TOML with a dotted key: `run.batch_size=64`."""
    values = dataclasses.asdict(config)  # msgspec would leave out what it took from the defaults
    for setting in settings:
        key, equals, value = setting.partition("=")
        *tables, name = key.strip().split(".")
        table = values
        for part in tables:
            table = table.get(part, {}) if isinstance(table, dict) else {}
        if not equals or not isinstance(table, dict) or name not in table:
            raise ConfigError(f"cannot set {setting[:200]!r}: give table.key=value, for instance run.batch_size=64")
        try:
            [(_, table[name])] = _toml(f"value = {value}").items()
        except (*_NO_TOML, ValueError):
            raise ConfigError(f"cannot set {setting[:200]!r}: {value.strip()[:200]!r} is no TOML value") from None
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
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        what, _, where = one_line(error).partition(" - at `$")
        key = where.strip(".`") or "the configuration"
        what = what.replace("`object`", "a table").replace("`array`", "a list").replace("`", "")
        raise ConfigError(f"{key}: {what[0].lower()}{what[1:]}") from None


def _toml(text: str) -> dict[str, Any]:
    """The tables of a text; TOMLDecodeError for one that nests deeper than any configuration."""
    if max(text.count("["), text.count("{"), text.count(".")) > _DEEPEST:
        depth = 0
        for letter in text:  # strings may hold brackets: refused at worst where thousands are open
            depth += (letter in "[{") - (letter in "]}")
            if depth > _DEEPEST:
                raise tomllib.TOMLDecodeError(f"nested more than {_DEEPEST} deep")
        if re.search(rf"(\.[^.\n=]*){{{_DEEPEST}}}", text):
            raise tomllib.TOMLDecodeError(f"a key of more than {_DEEPEST} parts")
    tables: dict[str, Any] = tomllib.loads(text)
    return tables


_hints = functools.cache(typing.get_type_hints)


def _check_names(kind: type, values: dict[str, Any], where: str = "") -> None:
    """Refuse unknown keys and choices, and list the known: msgspec drops the ones, and does not list the others."""
    hints = _hints(kind)
    for key, value in values.items():
        hint = hints.get(key)
        if hint is None:
            raise ConfigError(f"unknown key {where}{one_line(key)}; known here: {', '.join(sorted(hints))}")
        if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
            raise ConfigError(f"{where}{key}: must be one of {', '.join(typing.get_args(hint))}, got {value!r}")
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            _check_names(typing.cast(type, hint), value, f"{where}{key}.")
