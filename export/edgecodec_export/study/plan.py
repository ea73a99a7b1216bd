"""What a study is: a TOML file that names variants of a configuration, and what all of them have in common."""

from __future__ import annotations

import dataclasses
import importlib.resources
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from edgecodec.errors import ConfigError
from edgecodec_training.config import Config, from_dict, load_config, parse_toml, read_text
from edgecodec_training.ranges import Count, Decibels, Natural
from msgspec import Meta

Tables = dict[str, Any]  # as TOML has them


@dataclass(frozen=True)
class Variant:
    """One codec of a study.

    `set`: what it changes in the configuration, as in its TOML. `checkpoint`: or a finished checkpoint or run, which is
    only measured. `note`: what the report says about it.
    """

    set: Tables = field(default_factory=dict)
    checkpoint: str = ""
    note: str = ""


@dataclass(frozen=True)
class Study:
    """A study; `data`, `valid`, `networks` and `noise` may be left to the command line.

    `config` is the base of all variants (see `edgecodec_training.config`), `set` changes it for all. Each variant is
    trained once a seed for `steps`. Scored are at most `clips` (0: all) of the speech in `valid`, at the stage counts
    `scored` and at all stages. Costs are ratios to the variant `reference`, by default the first.

    All variants begin with the encoder and decoder of the checkpoint `networks`, if there is one. With recordings
    `noise`, codecs hear the clips with noise behind them, at `snr_db`, and are scored by what they make of it.
    """

    title: str = "Quantizers side by side"
    config: str = "edge"
    set: Tables = field(default_factory=dict)
    data: tuple[str, ...] = ()
    valid: str = ""
    networks: str = ""
    noise: str = ""
    snr_db: Decibels = 5.0
    steps: Count = 400
    seeds: Annotated[tuple[Annotated[int, Meta(ge=0, le=(1 << 32) - 1)], ...], Meta(min_length=1)] = (0,)
    clips: Natural = 0
    scored: tuple[Count, ...] = (1, 2, 4, 8, 16, 32)
    reference: str = ""
    variants: dict[str, Variant] = field(default_factory=dict)

    def config_of(self, name: str, seed: int) -> Config:
        """What is trained: the base, what all change, what the variant changes; and every step is logged.

        Raises:
            ConfigError: a key that does not exist or a value out of its range; the message names the variant.
        """
        values = dataclasses.asdict(load_config(self.config))
        values = _merged(_merged(values, self.set), self.variants[name].set)
        values["run"] |= {"seed": seed, "steps": self.steps, "log_every": 1}
        try:
            return from_dict(Config, values)
        except ConfigError as error:
            raise ConfigError(f"variant {name}: {error}") from None

    @property
    def measured_beside(self) -> str:
        """The variant that costs are ratios to."""
        return self.reference or next(iter(self.variants))


def load_study(name: str) -> Study:
    """Read a study from a TOML file, or a shipped one by its name (`quantizers`, `denoising`, `ablations`).

    Raises:
        ConfigError: no such file, unknown keys, values out of their range, or settings that no variant can have.
    """
    tables = parse_toml(read_text(name, importlib.resources.files("edgecodec_export") / "studies"), name)
    variants = tables.get("variants")
    if not isinstance(variants, dict) or not variants:
        raise ConfigError(f"{name}: no variants: give one table [variants.NAME] for each")
    for own, values in variants.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", own):
            raise ConfigError(f"{name}: a variant is named by up to 40 of a-z 0-9 _ -, not {own[:60]!r}")
        try:
            if (variant := from_dict(Variant, values)).checkpoint and variant.set:
                raise ConfigError("a finished checkpoint has its own settings: give either")
        except ConfigError as error:
            raise ConfigError(f"{name}: variant {own}: {error}") from None
    try:
        study = from_dict(Study, tables)
        if study.reference and study.reference not in study.variants:
            raise ConfigError(f"reference: no variant is called {study.reference!r}")
        for own in study.variants:
            study.config_of(own, study.seeds[0])
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    return _beside(study, Path(name)) if name.endswith(".toml") else study


def _beside(study: Study, file: Path) -> Study:
    """Checkpoints are named from the folder of the study's file."""

    def place(variant: Variant) -> Variant:
        at = str(file.parent / variant.checkpoint) if variant.checkpoint else ""
        return dataclasses.replace(variant, checkpoint=at)

    networks = str(file.parent / study.networks) if study.networks else ""
    variants = {name: place(variant) for name, variant in study.variants.items()}
    return dataclasses.replace(study, networks=networks, variants=variants)


def _merged(base: Tables, changes: Tables) -> Tables:
    """Tables with changes: a table goes into its table, anything else replaces what stood there."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
