"""Configurations: shipped ones load, and every mistake names its key."""

import dataclasses
import re
from pathlib import Path

import pytest
from edgecodec.errors import ConfigError
from edgecodec_training.config import Config, from_dict, load_config, override
from edgecodec_training.model import CodecModel


@pytest.mark.parametrize("name", ["edge", "edge-gpu", "seanet"])
def test_shipped_configurations_build(name: str) -> None:
    config = load_config(name)
    assert config.model.architecture == name.partition("-")[0]
    assert config.model.bitrate(8) == 6.0
    CodecModel(config.model)


def test_a_configuration_survives_the_round_trip() -> None:
    config = load_config("seanet")
    assert from_dict(Config, dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[model]\nlatents = 3", "unknown key model.latents; known here: .*latent_dim"),
        ("[model]\nlatent_dim = 'wide'", "model.latent_dim must be int, got 'wide'"),
        ("[model]\nlatent_dim = true", "model.latent_dim must be int, got True"),
        ("[model]\narchitecture = 'wavenet'", "model.architecture must be one of .*'edge'"),
        ("[model.quantizer]\ndropout_stages = [40]", "dropout_stages .* must lie in 1..max_stages = 16"),
        ("[optimizer]\nbetas = [0.9]", "optimizer.betas must have 2 values, got 1"),
        ("[data.kind_weights]\nspeech = 'much'", "data.kind_weights.speech must be float"),
        ("model = 3", "model must be a table"),
        ("[model", "not valid TOML"),
    ],
)
def test_mistakes_name_their_key(tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(toml)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "c.toml")


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(
        ConfigError, match=r"no configuration 'wavenet': give a \.toml file, or one of edge, edge-gpu, seanet"
    ):
        load_config("wavenet")
    with pytest.raises(ConfigError, match="cannot read configuration"):
        load_config("missing.toml")


def test_values_are_changed_by_dotted_key() -> None:
    config = override(Config(), ["run.batch_size=64", "model.edge.channels = 32", 'discriminators.loss="lsgan"'])
    assert (config.run.batch_size, config.model.edge.channels, config.discriminators.loss) == (64, 32, "lsgan")
    assert override(config, []) == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("run.batch=64", "cannot set 'run.batch=64': give table.key=value"),
        ("batch_size=64", "cannot set 'batch_size=64'"),
        ("run.batch_size", "cannot set 'run.batch_size'"),
        ("run.batch_size.x=1", "cannot set 'run.batch_size.x=1'"),
        ("run.batch_size=many", "'many' is no TOML value"),
        ("run.batch_size=1.5", "run.batch_size must be int"),
    ],
)
def test_a_wrong_setting_says_so(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        override(Config(), [setting])
