"""EnCodec, from other people's names to a bundle, against transformers in torch and in onnxruntime.

Random weights prove nothing by themselves: latents are almost constant, and codebooks drawn from residuals leave only
rounding noise to later stages. So the latents here are centred, codebooks shrink by a stated factor a stage, and the
fall of the residual is asserted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import pytest
import torch
from edgecodec.commands.main import app
from edgecodec.errors import CheckpointError
from edgecodec_export.adapters import encodec
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.weights import Weights
from edgecodec_export.assemble import Request, export_bundle
from edgecodec_export.audio import synthetic_voice
from safetensors.torch import save_file
from typer.testing import CliRunner

transformers = pytest.importorskip("transformers")

SIZES = {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "codebook_size": 64, "upsampling_ratios": [5, 4, 2]}
FRAME, STAGES = 40, 8
SHRUNK = 0.6  # codebook entries, of the residuals that they are drawn from: else later stages see rounding noise
START = 30  # frames in which the reflected start of the original still shows


def small_model() -> Any:
    """A small EncodecModel with latents around zero and codebooks that fit them."""
    torch.manual_seed(0)
    bandwidths = [600 * 6 * n / 1000 for n in (1, STAGES)]
    config = transformers.EncodecConfig(**SIZES, target_bandwidths=bandwidths)
    model = transformers.EncodecModel(config).eval().requires_grad_(False)
    spread(model.encoder.layers[-1].conv, lambda: model.encoder(voice(400)[None, None])[..., START:])
    rest = model.encoder(voice(400)[None, None])[0, :, START:].T
    for layer in model.quantizer.layers:
        drawn = rest[torch.randperm(len(rest))[: SIZES["codebook_size"]]]
        layer.codebook.embed.copy_(SHRUNK * drawn)
        rest = rest - layer.decode(layer.encode(rest.T[None]))[0].T
    spread(
        model.decoder.layers[-1].conv,
        lambda: model.decoder(model.encoder(voice(400)[None, None]))[..., START * FRAME :],
    )
    return model


@pytest.fixture(scope="module")
def theirs() -> Any:
    return small_model()


def spread(last: Any, output: Callable[[], torch.Tensor]) -> None:
    """Centre a last layer's output, which is nearly constant with random weights, and give it size."""
    last.parametrizations.weight.original0 *= 0.2 / output().std(dim=2).mean()
    last.bias -= output().mean((0, 2))


def voice(frames: int) -> torch.Tensor:
    return torch.from_numpy(synthetic_voice(frames * FRAME / 24_000, 24_000)[: frames * FRAME])


def adapted(model: Any) -> AdaptedCodec:
    return encodec.from_transformers(model.config.to_dict(), Weights(model.state_dict(), "transformers"))


@pytest.fixture(scope="module")
def ours(theirs: Any) -> AdaptedCodec:
    return adapted(theirs)


def save(model: Any, folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model.config.to_dict() | {"model_type": "encodec"}))
    save_file({k: v.contiguous() for k, v in (tensors or model.state_dict()).items()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def codec(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> edgecodec.Codec:
    folder = tmp_path_factory.mktemp("encodec")
    export_bundle(Request(save(theirs, folder / "model"), folder / "bundle", "small"))
    return edgecodec.load(folder / "bundle")


def test_sizes_come_from_the_configuration(ours: AdaptedCodec) -> None:
    c = ours.contract
    assert (c.sample_rate, c.frame_size, c.latent_dim, c.codebook_size) == (24_000, FRAME, 16, 64)
    assert c.max_stages == STAGES


def test_residual_falls_at_every_stage(theirs: Any, ours: AdaptedCodec) -> None:
    latents = ours.encode_latents(voice(300)[None, None])[:, START:]
    energy = [float(latents.square().mean())]
    for n in range(1, STAGES + 1):
        left = latents - ours.quantizer.decode(ours.quantizer.encode(latents, n))
        energy.append(float(left.square().mean()))
    falls = [after / before for before, after in pairwise(energy)]
    assert max(falls) < 0.9, falls
    assert energy[-1] > 1e-3 * energy[0]  # and something is left: no stage quantizes rounding noise


def test_latents_are_those_of_the_original_once_its_start_is_over(theirs: Any, ours: AdaptedCodec) -> None:
    clip = voice(200)[None, None]
    expected, found = theirs.encoder(clip).transpose(1, 2), ours.encode_latents(clip)
    size = float(expected[:, START:].abs().max())
    assert float((expected - found)[:, START:].abs().max()) < 1e-4 * size
    assert float((expected - found)[:, 0].abs().max()) > 1e-3 * size  # the start does differ


def test_decoded_audio_is_that_of_the_original_once_its_start_is_over(theirs: Any, ours: AdaptedCodec) -> None:
    codes = ours.quantizer.encode(ours.encode_latents(voice(200)[None, None]), STAGES)
    latents = theirs.quantizer.decode(codes.transpose(0, 1))
    assert torch.allclose(latents.transpose(1, 2), ours.quantizer.decode(codes), atol=1e-5)
    expected, found = theirs.decoder(latents), ours.decode_latents(latents.transpose(1, 2))
    assert expected.shape == found.shape
    size = float(expected[..., START * FRAME :].abs().max())
    assert float((expected - found)[..., START * FRAME :].abs().max()) < 1e-4 * size


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
def test_codes_are_those_of_the_original(theirs: Any, codec: edgecodec.Codec, stages: int) -> None:
    """transformers in torch against the bundle in onnxruntime, up to near ties."""
    clip = voice(200)
    latents = theirs.encoder(clip[None, None])
    expected = torch.stack(_their_codes(theirs, latents, stages), dim=1).numpy()
    found = codec.encode(clip.numpy(), stages=stages)
    assert found.shape == expected.shape
    assert (found != expected)[..., START:].mean() <= 0.005


def _their_codes(model: Any, latents: torch.Tensor, stages: int) -> list[torch.Tensor]:
    residual, codes = latents, []
    for layer in model.quantizer.layers[:stages]:
        codes.append(layer.encode(residual))
        residual = residual - layer.decode(codes[-1])
    return codes


def test_audio_of_the_bundle_is_that_of_the_original(theirs: Any, codec: edgecodec.Codec) -> None:
    codes = codec.encode(voice(200).numpy(), stages=STAGES)
    expected = theirs.decoder(theirs.quantizer.decode(torch.from_numpy(codes).transpose(0, 1))).numpy()
    found = codec.decode(codes)
    start = START * FRAME
    size = np.abs(expected[..., start:]).max()
    assert np.abs(expected - found)[..., start:].max() < 1e-4 * size
    spoiled = codes.copy()
    spoiled[0, 0, 150] ^= 1  # negative control: one code
    assert np.abs(expected - codec.decode(spoiled))[..., start:].max() > 1e-3 * size


@pytest.mark.parametrize("seed", range(4))
def test_streams_cut_anyhow_are_the_whole_clip(codec: edgecodec.Codec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    clip = voice(90).numpy()
    encoder = codec.encoder_stream(stages=STAGES, frames_per_packet=int(rng.integers(1, 5)))
    decoder = codec.decoder_stream()
    blocks = np.split(clip, np.sort(rng.integers(0, len(clip), 12)))
    packets = [packet for block in blocks for packet in encoder.push(block)] + encoder.flush()
    whole = codec.encode(clip, stages=STAGES)
    assert np.array_equal(np.concatenate([packet.codes for packet in packets], axis=2), whole)
    streamed = np.concatenate([decoder.push(packet) for packet in packets])
    assert np.array_equal(streamed, codec.decode(whole)[0, 0])


def test_rows_of_a_batch_are_alone(codec: edgecodec.Codec) -> None:
    clips = np.stack([voice(50).numpy(), voice(50).numpy()[::-1] * 0.5])
    both = codec.encode(clips, stages=STAGES)
    for row, clip in zip(both, clips, strict=True):
        assert np.array_equal(row[None], codec.encode(clip, stages=STAGES))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_clips(codec: edgecodec.Codec, frames: int) -> None:
    clip = voice(frames + 1).numpy()[: frames * FRAME - 3]
    codes = codec.encode(clip, stages=2)
    assert codes.shape == (1, 2, frames)
    assert codec.decode(codes, samples=len(clip)).shape == (1, 1, len(clip))


def original_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the encodec package calls them."""
    renamed = {}
    for name, tensor in tensors.items():
        new = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", name)
        new = re.sub(r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", new)
        kind = "convtr.convtr" if tensor.ndim and re.match(r"decoder\.model\.(3|6|9|12)\.conv\.", new) else "conv.conv"
        new = re.sub(r"\.conv\.(?=[^.]+$|parametrizations)", f".{kind}.", new)
        new = new.replace("parametrizations.weight.original0", "weight_g")
        renamed[new.replace("parametrizations.weight.original1", "weight_v")] = tensor
    return renamed


def test_names_of_the_original_package_give_the_same_codec() -> None:
    """At the real size, for its files hold no configuration."""
    torch.manual_seed(1)
    model = transformers.EncodecModel(transformers.EncodecConfig()).eval()
    tensors = original_names(model.state_dict())
    assert "decoder.model.3.convtr.convtr.weight_g" in tensors
    assert "quantizer.vq.layers.31._codebook.embed" in tensors
    mine, original = adapted(model), encodec.from_original(Weights(tensors, "original"))
    assert original.contract == mine.contract
    assert (mine.contract.frame_size, mine.contract.max_stages) == (320, 32)
    for (name, a), (other, b) in zip(mine.state_dict().items(), original.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_channels": 2}, "audio_channels = 2 is not adapted; the nearest that is, the causal model, has 1"),
        ({"norm_type": "time_group_norm"}, "norm_type"),
        ({"chunk_length_s": 1.0}, "chunk_length_s = 1.0"),
        ({"trim_right_ratio": 0.5}, "trim_right_ratio 0.5"),
        ({"num_filters": 8}, r"encoder.layers.0.conv.parametrizations.weight.original1 is \[4, 1, 7\], expected"),
        ({"upsampling_ratios": [5, 4]}, "lacks the tensor|expected"),
        ({"upsampling_ratios": [0]}, "no whole number in range"),
        ({"target_bandwidths": ["x"]}, "must list kbps"),
        ({"target_bandwidths": [3.6]}, "tensors belong to no part of the model, first quantizer.layers.1"),
        ({"codebook_dim": 8}, "codebooks of 8 dimensions"),
    ],
)
def test_what_the_tensors_contradict_is_refused(theirs: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        encodec.from_transformers(theirs.config.to_dict() | changes, Weights(theirs.state_dict(), "file"))
    assert "\n" not in str(caught.value)


def test_the_command(theirs: Any, tmp_path: Path) -> None:
    source = save(theirs, tmp_path / "model")
    (source / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    arguments = ["export", str(source), str(tmp_path / "small"), "--precision", "fp16", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)["manifest"]
    assert (manifest["architecture"], manifest["format_version"]) == ("encodec", 1)
    assert manifest["training"]["origin"] == {"licence": "cc-by-nc-4.0"}
    assert manifest["parity"]["codes_equal"] >= 0.995
    assert manifest["macs_per_second"]["encoder"] > 0
    assert "cc-by-nc-4.0" in (tmp_path / "small" / "MODEL_CARD.md").read_text()
    assert "cc-by-nc-4.0" in (tmp_path / "small" / "LICENSE").read_text()
    refused = CliRunner().invoke(app, ["export", str(source), str(tmp_path / "no"), "--precision", "int8"])
    assert refused.exit_code == 2
    assert not (tmp_path / "no").exists()
