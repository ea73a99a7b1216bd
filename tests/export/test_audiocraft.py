"""Files as audiocraft exports its compression models: the same codec as from the layout of transformers."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from edgecodec.errors import CheckpointError
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.audiocraft import flat_yaml
from edgecodec_export.adapters.catalogue import adapt
from edgecodec_export.adapters.sources import read_published
from safetensors.torch import save_file

transformers = pytest.importorskip("transformers")
yaml = pytest.importorskip("yaml")

RATIOS, STAGES = [5, 4], 3
XP: dict[str, Any] = {  # with values that refer to others, as audiocraft's configurations have them
    "sample_rate": 8000,
    "channels": 1,
    "device": "cuda",
    "dora": {"dir": "/somewhere/with a space", "exclude": ["device", "wandb.*"]},
    "compression_model": "encodec",
    "encodec": {
        "autoencoder": "seanet",
        "quantizer": "rvq",
        "sample_rate": "${sample_rate}",
        "channels": "${channels}",
        "causal": False,
        "renormalize": False,
    },
    "seanet": {
        "dimension": 16,
        "channels": "${channels}",
        "causal": "${encodec.causal}",
        "n_filters": 4,
        "n_residual_layers": 1,
        "ratios": RATIOS,
        "activation": "ELU",
        "activation_params": {"alpha": 1.0},
        "norm": "weight_norm",
        "norm_params": {},
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 7,
        "dilation_base": 2,
        "pad_mode": "constant",
        "true_skip": True,
        "compress": 2,
        "lstm": 2,
        "disable_norm_outer_blocks": 0,
        "decoder": {"trim_right_ratio": 1.0, "final_activation": None, "final_activation_params": None},
        "encoder": {},
    },
    "rvq": {"n_q": STAGES, "q_dropout": False, "bins": 64, "decay": 0.99},
}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        sampling_rate=8000,
        num_filters=4,
        hidden_size=16,
        codebook_dim=16,
        codebook_size=64,
        upsampling_ratios=RATIOS,
        use_causal_conv=False,
        use_conv_shortcut=False,
        pad_mode="constant",
        target_bandwidths=[400 * 6 * STAGES / 1000],
    )
    return transformers.EncodecModel(config).eval()


def written(path: Path, model: Any, **changes: Any) -> str:
    """The file of a model; changes are of the configuration, by dotted keys with double underscores."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        new = re.sub(r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", name)
        new = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", new)
        kind = "convtr.convtr" if re.match(r"decoder\.model\.(3|6)\.conv\.", new) else "conv.conv"
        new = re.sub(r"\.conv\.(?=bias$|parametrizations)", f".{kind}.", new)
        new = new.replace("parametrizations.weight.original0", "weight_g")
        tensors[new.replace("parametrizations.weight.original1", "weight_v")] = tensor
    config = copy.deepcopy(XP)
    for key, value in changes.items():
        place, *names = config, *key.split("__")
        for name in names[:-1]:
            place = place[name]
        place[names[-1]] = value
        if value is ...:
            del place[names[-1]]
    text = yaml.dump(config, default_flow_style=False, allow_unicode=True, sort_keys=False)
    torch.save({"best_state": tensors, "xp.cfg": text, "version": "1.4.0a1", "exported": True}, path)
    return str(path)


def taken(path: str) -> AdaptedCodec:
    return adapt(read_published(path))


def test_the_same_codec_as_of_transformers(tmp_path: Path, model: Any) -> None:
    other = tmp_path / "transformers"
    other.mkdir()
    model.config.to_json_file(other / "config.json", use_diff=False)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, other / "model.safetensors")
    mine, theirs = taken(written(tmp_path / "compression_state_dict.bin", model)), taken(str(other))
    assert mine.contract == theirs.contract
    assert (mine.contract.sample_rate, mine.contract.frame_size, mine.contract.max_stages) == (8000, 20, STAGES)
    assert mine.facts == theirs.facts
    for (name, a), (also, b) in zip(mine.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert name == also
        assert torch.equal(a, b), name
    clip = torch.randn(1, 1, 400)
    assert torch.equal(mine.encode_latents(clip), theirs.encode_latents(clip))


def test_what_layers_see_beyond_a_clip_is_as_the_configuration_says(tmp_path: Path, model: Any) -> None:
    found = read_published(written(tmp_path / "file.bin", model, seanet__pad_mode="reflect", rvq__n_q=STAGES))
    assert found.config["pad_mode"] == "reflect"
    clip = torch.randn(1, 1, 400)
    zeros, mirrored = (adapt(found, start).encode_latents(clip) for start in ("zero", "exact"))
    with torch.no_grad():
        expected = model.encoder(clip).transpose(1, 2)
    assert (zeros - expected).abs().max() < 1e-5
    assert (mirrored - expected).abs().max() > 1e-4


def test_yaml_in_block_style() -> None:
    text = "a:\n  b: 1\n  c:\n  - 2\n  - ${a.b}\n  d: {}\ne: '${a.b}'\n  long\nf: null\ng:\n  - 3\nh: x y: z # no\n"
    expected = {"a": [], "a.b": "1", "a.c": ["2", "${a.b}"], "a.d": "{}", "e": "${a.b}", "f": "null", "g": ["3"]}
    assert flat_yaml(text) == expected | {"h": "x y: z # no"}
    assert flat_yaml("- 1\n:\n\n\t\nno key") == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compression_model": "dac"}, "compression_model = 'dac' is not adapted, only encodec"),
        ({"seanet__activation": "ReLU"}, "seanet.activation = 'ReLU' is not adapted"),
        ({"seanet__decoder__n_filters": 8}, "seanet.decoder.n_filters is not adapted: encoder and decoder must be"),
        ({"seanet__lstm": ...}, "xp.cfg lacks seanet.lstm"),
        ({"seanet__lstm": "two"}, "seanet.lstm must be a whole number, not 'two'"),
        ({"encodec__causal": "${seanet.causal}"}, "encodec.causal refers to itself"),
        ({"encodec__causal": "perhaps"}, "encodec.causal must be true or false"),
        ({"encodec__sample_rate": "${rate}"}, "xp.cfg lacks rate"),
        ({"seanet__ratios": []}, r"seanet.ratios must be a whole number, not '\[\]'"),
        ({"seanet__ratios": [0, 4]}, "seanet.ratios or rvq.bins cannot be"),
        ({"seanet__n_filters": 8}, r"encoder.layers.0.conv.weight_v is \[4, 1, 7\], expected \[8, 1, 7\]"),
        ({"rvq__n_q": 4}, "lacks the tensor quantizer.layers.3.codebook.embed"),
        ({"rvq__n_q": 2}, "tensors belong to no part of the model, first quantizer.layers.2"),
        ({"channels": 2}, "audio_channels = 2 is not adapted"),
    ],
)
def test_what_is_not_adapted_or_contradicts_itself_is_refused(
    tmp_path: Path, model: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        taken(written(tmp_path / "file.bin", model, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pretrained": "facebook/encodec_32khz", "exported": True}, "take hf:facebook/encodec_32khz$"),
        ({"pretrained": "//pretrained/facebook/encodec_32khz"}, "take hf:facebook/encodec_32khz$"),
        ({"pretrained": "dac_44khz", "version": "1.0.0"}, "take hf:descript/dac_44khz$"),
        ({"pretrained": "a\nb"}, r"take 'a\\nb'$"),
        ({"best_state": {"a": torch.ones(1)}, "xp.cfg": {"a": 1}}, "no tensors and their configuration"),
        ({"best_state": [], "xp.cfg": "a: 1"}, "no tensors and their configuration"),
    ],
)
def test_files_without_weights_or_configuration_are_refused_in_a_line(
    tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    torch.save(content, tmp_path / "file.bin")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_published(str(tmp_path / "file.bin"))
    assert "\n" not in str(caught.value)
