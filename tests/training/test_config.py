"""Configurations: shipped ones load, and every mistake names its key."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from edgecodec.errors import ConfigError
from edgecodec_training.config import Config, ModelConfig, from_dict, load_config, override
from edgecodec_training.model import CodecModel

CHECKPOINT = Path(__file__).parents[2] / "models" / "checkpoints" / "speech"


@pytest.mark.parametrize("name", ["edge", "edge-denoise", "edge-gpu", "seanet"])
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
        ("[models]\nlatents = 3", "unknown key models; known here: data, .*model, "),
        ("[model]\nlatent_dim = 'wide'", "model.latent_dim: expected int, got str"),
        ("[model]\nlatent_dim = true", "model.latent_dim: expected int, got bool"),
        ("[model]\nlatent_dim = 8.0", "model.latent_dim: expected int, got float"),
        ("[model]\narchitecture = 'wavenet'", "model.architecture: must be one of edge, seanet, got 'wavenet'"),
        ("[model.seanet]\nactivation = 'relu'", "model.seanet.activation: must be one of silu, leaky_relu, "),
        ("[model.quantizer]\ndropout_stages = [40]", "dropout_stages .* must lie in 1..max_stages = 16"),
        ("[model.quantizer]\ndropout_stages = []", "dropout_stages: expected a list of length >= 1"),
        ("[model.quantizer]\npaths = [3, 0]", r"model.quantizer.paths\[1\]: expected int >= 1"),
        ("[optimizer]\nbetas = [0.9]", "optimizer.betas: expected a list of length 2, got 1"),
        ("[optimizer]\nbetas = [0.9, 1.0]", r"optimizer.betas\[1\]: expected float < 1"),
        ("[optimizer]\nlearning_rate = nan", "optimizer.learning_rate: expected float >= 0"),
        ("[data.kind_weights]\nspeech = 'much'", "data.kind_weights.*: expected float, got str"),
        (
            "[data.denoising]\nshare = 0.5",
            "noise_chance = 0.15 would keep the noise that denoising leaves out: set it to 0",
        ),
        ("[data.denoising]\nsnr_db = [20, -5]", r"snr_db must be \(low, high\), got \(20"),
        ("[run]\nsteps = 0", "run.steps: expected int >= 1"),
        ("[run]\nbatch_size = 0", "run.batch_size: expected int >= 1"),
        ("[run]\nvalidate_every = 0", "run.validate_every: expected int >= 1"),
        ("[run]\nseed = -1", "run.seed: expected int >= 0"),
        ("[run]\nclip_seconds = -0.5", "run.clip_seconds: expected float > 0"),
        ("model = 3", "model: expected a table, got int"),
        ("[model", "not valid TOML"),
    ],
)
def test_mistakes_name_their_key(tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(toml)
    with pytest.raises(ConfigError, match=message) as refusal:
        load_config(tmp_path / "c.toml")
    assert "\n" not in str(refusal.value)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(
        ConfigError,
        match=r"no configuration 'wavenet': give a \.toml file, or one of edge, edge-denoise, edge-gpu, seanet",
    ):
        load_config("wavenet")
    with pytest.raises(ConfigError, match="cannot read configuration"):
        load_config("missing.toml")


def test_a_binary_file_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"cannot read configuration .*c\.toml"):
        load_config(tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_size": 321}, "the lapped transform needs an even frame_size, not 321"),
        ({"architecture": "seanet", "frame_size": 321}, "patch x strides = 320, but frame_size is 321"),
        ({"quantizer": {"kind": "pq"}, "latent_dim": 81}, "pq splits latent_dim 81 into max_stages 16 equal slices"),
    ],
)
def test_parts_that_do_not_fit_are_configuration_errors(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CodecModel(from_dict(ModelConfig, changes))


def _without(keys: dict[str, tuple[str, ...]], config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without some keys of its sections, which are those of the model or of the run."""
    for section, names in keys.items():
        place = config["model"][section] if section in config["model"] else config[section]
        for name in names:
            del place[name]
    return config


def test_checkpoints_before_a_key_was_added_load(tmp_path: Path) -> None:
    """Keys that came after the first checkpoints have their defaults."""
    added = {
        "loss": ("disturbance", "locking"),
        "data": ("denoising",),
        "edge": ("pitch_filter", "pitch_bins", "pitch_lags"),
        "quantizer": ("dropout_mixed", "kmeans", "sharpness"),
    }
    values = _without(added, json.loads((CHECKPOINT / "checkpoint.json").read_text())["config"])
    config = from_dict(Config, values)
    assert config.loss.disturbance == 0 and config.model.quantizer.dropout_mixed == 0.5
    assert config.model.quantizer.kmeans and config.model.edge.pitch_filter == config.loss.locking == 0
    assert _without(added, json.loads(json.dumps(dataclasses.asdict(config)))) == values


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
        ("run.batch_size=1.5", "run.batch_size: expected int, got float"),
    ],
)
def test_a_wrong_setting_says_so(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        override(Config(), [setting])
