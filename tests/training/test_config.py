"""Configurations: shipped ones load, and every mistake names its key."""

import dataclasses
from pathlib import Path

import pytest
from edgecodec_training.config import Config, ConfigError, from_dict, load_config
from edgecodec_training.model import CodecModel


@pytest.mark.parametrize("name", ["edge", "seanet"])
def test_shipped_configurations_build(name: str) -> None:
    config = load_config(name)
    assert config.model.architecture == name
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
    with pytest.raises(ConfigError, match=r"no configuration 'wavenet': give a \.toml file, or one of edge, seanet"):
        load_config("wavenet")
    with pytest.raises(ConfigError, match="cannot read configuration"):
        load_config("missing.toml")
