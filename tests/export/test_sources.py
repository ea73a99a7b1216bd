"""What `edgecodec export` is given: every layout is told by what it holds, and everything else is refused in a line."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from edgecodec.errors import CheckpointError
from edgecodec_export.adapters.hub import download, licence_of
from edgecodec_export.adapters.sources import is_own, read_published
from edgecodec_export.adapters.weights import Weights
from safetensors.torch import save_file

TENSORS = {"encoder.weight": torch.ones(2, 3)}


def folder(path: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(TENSORS if tensors is None else tensors, path / "model.safetensors")
    return path


@pytest.mark.parametrize("kind", ["encodec", "dac", "mimi"])
def test_transformers_layout_is_told_by_its_model_type(tmp_path: Path, kind: str) -> None:
    found = read_published(str(folder(tmp_path / "any_name", {"model_type": kind})))
    assert (found.kind, found.layout) == (kind, "transformers")
    assert found.weights.names == {"encoder.weight"}


def test_files_in_parts_are_joined(tmp_path: Path) -> None:
    path = folder(tmp_path, {"model_type": "mimi"})
    (path / "model.safetensors").unlink()
    for i in (1, 2):
        save_file({f"t{i}": torch.ones(i)}, path / f"model-{i}.safetensors")
    index = {"weight_map": {"t1": "model-1.safetensors", "t2": "model-2.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_published(str(path)).weights.names == {"t1", "t2"}
    index["weight_map"]["t2"] = "../model-2.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="plain file names"):
        read_published(str(path))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"state_dict": TENSORS, "metadata": {"kwargs": {"encoder_dim": 64}}}, "dac"),
        ({"quantizer.vq.layers.0._codebook.embed": torch.ones(4, 2)}, "encodec"),
        ({"quantizer.rvq_first.vq.layers.0._codebook.embedding_sum": torch.ones(4, 2)}, "mimi"),
    ],
)
def test_original_files_are_told_by_what_they_hold(tmp_path: Path, content: dict[str, Any], kind: str) -> None:
    torch.save(content, tmp_path / "file.bin")
    found = read_published(str(tmp_path / "file.bin"))
    assert (found.kind, found.layout) == (kind, "original")


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harm",)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Harmful()}, tmp_path / "torch.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": _Harmful()}))
    for name in ("torch.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match="more than tensors"):
            read_published(name)
    assert not (tmp_path / "harm").exists()


def test_what_is_no_codec_is_refused_in_one_line(tmp_path: Path) -> None:
    good = folder(tmp_path / "good", {"model_type": "dac"})
    cut = folder(tmp_path / "cut", {"model_type": "dac"})
    (cut / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes()[:-5])
    (tmp_path / "empty").mkdir()
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pt")
    torch.save({"state_dict": TENSORS}, tmp_path / "bare.pt")
    faults = {
        str(tmp_path / "nowhere"): "no such file or folder",
        str(tmp_path / "empty"): "neither checkpoint.json nor config.json",
        str(folder(tmp_path / "other", {"model_type": "bert"})): "model_type 'bert'; known here: encodec, dac, mimi",
        str(folder(tmp_path / "none", {"hidden": 3})): "no codec that is known here",
        str(folder(tmp_path / "bare", {"model_type": "dac"}, {})): "no tensors",
        str(cut): "damaged or truncated",
        str(tmp_path / "list.pt"): "holds a list",
        str(tmp_path / "other.pt"): "no codec that is known here",
        str(tmp_path / "bare.pt"): "without metadata.kwargs",
    }
    for source, message in faults.items():
        with pytest.raises(CheckpointError) as caught:
            read_published(source)
        assert message in str(caught.value), source
        assert "\n" not in str(caught.value)


def test_own_checkpoints_are_told_from_others(tmp_path: Path) -> None:
    (tmp_path / "run" / "step-00000007").mkdir(parents=True)
    (tmp_path / "run" / "step-00000007" / "checkpoint.json").write_text("{}")
    assert is_own(tmp_path / "run")
    assert is_own(tmp_path / "run" / "step-00000007")
    assert not is_own(folder(tmp_path / "theirs", {"model_type": "dac"}))


def test_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the download: nothing is cached, and there is no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for source in ("hf:", "hf:name", "hf:../../etc", "hf:a/b/c"):
        with pytest.raises(CheckpointError, match="give hf:owner/name"):
            download(source)
    with pytest.raises(CheckpointError, match=r"hf:some/codec@v1: not in the local cache|cannot be reached"):
        download("hf:some/codec@v1")


def test_licence_stands_in_the_head_of_the_card(tmp_path: Path) -> None:
    assert licence_of(tmp_path) == ""
    (tmp_path / "README.md").write_text("---\ntags: [x]\nlicense: cc-by-nc-4.0\n---\n# A model\nlicense: mit\n")
    assert licence_of(tmp_path) == "cc-by-nc-4.0"
    (tmp_path / "README.md").write_text("# A model\n\nlicense: mit\n")
    assert licence_of(tmp_path) == ""


def test_weights_say_what_does_not_fit() -> None:
    weights = Weights({"a": torch.ones(2, 3), "b": torch.tensor([float("nan")]), "c": torch.ones(1)}, "file")
    for name, shape, message in (
        ("z", (1,), r"file: lacks the tensor z \[1\]"),
        ("a", (3, 2), r"file: a is \[2, 3\], expected \[3, 2\]"),
        ("b", (1,), "file: b must hold finite"),
    ):
        with pytest.raises(CheckpointError, match=message):
            weights.take(name, *shape)
    assert weights.take("a", 2, -1).shape == (2, 3)
    with pytest.raises(CheckpointError, match="2 tensors belong to no part of the model, first b"):
        weights.finish()
    weights.finish(ignored=["b", "c"])


@pytest.mark.parametrize("spelling", ["weight_{}", "parametrizations.weight.original{}"])
def test_weight_norm_in_either_spelling_is_one_weight(spelling: str) -> None:
    from torch.nn.utils import parametrizations

    torch.manual_seed(0)
    conv = parametrizations.weight_norm(torch.nn.ConvTranspose1d(4, 3, 5))
    named = dict(zip(("g", "v") if "_" in spelling else ("0", "1"), conv.parametrizations.weight.parameters()))  # noqa: B905
    weights = Weights({"up." + spelling.format(key): tensor for key, tensor in named.items()}, "file")
    assert torch.allclose(weights.kernel("up", 4, 3, 5), conv.weight.detach(), atol=1e-6)
