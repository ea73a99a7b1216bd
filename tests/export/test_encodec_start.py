"""EnCodec's start by reflection: the original's from the first sample on, in torch and in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from edgecodec_export.adapters import encodec
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.graphs import adapted_graphs
from edgecodec_export.adapters.weights import Weights
from numpy.typing import NDArray
from onnx import ModelProto

transformers = pytest.importorskip("transformers")

SIZES = {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "codebook_size": 64, "upsampling_ratios": [5, 4, 2]}
FRAME, START = 40, 7
CLOSE = 1e-4  # of the largest value

Run = Callable[[Any, Any], tuple[NDArray[np.float32], NDArray[np.float32]]]


@pytest.fixture(scope="module")
def theirs() -> Any:
    """A small EncodecModel whose latents and audio are centred: random weights give an almost constant output."""
    torch.manual_seed(0)
    model = transformers.EncodecModel(transformers.EncodecConfig(**SIZES, target_bandwidths=[3.6]))
    model.eval().requires_grad_(False)
    clip = noise(200)
    for last, output in (
        (model.encoder.layers[-1].conv, lambda: model.encoder(clip)),
        (model.decoder.layers[-1].conv, lambda: model.decoder(model.encoder(clip))),
    ):
        last.parametrizations.weight.original0 *= 0.2 / output().std(dim=2).mean()
        last.bias -= output().mean((0, 2))
    return model


def noise(frames: int, batch: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(batch, 1, frames * FRAME, generator=torch.Generator().manual_seed(frames))


@pytest.fixture(scope="module")
def ours(theirs: Any) -> AdaptedCodec:
    return encodec.from_transformers(theirs.config.to_dict(), Weights(theirs.state_dict(), "theirs"), start="exact")


def in_onnxruntime(graph: ModelProto) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    source = session.get_inputs()[0].name
    return lambda x, state: tuple(session.run(None, {source: np.asarray(x), "state": np.asarray(state)}))


@pytest.fixture(scope="module")
def graphs(ours: AdaptedCodec) -> dict[str, ModelProto]:
    return adapted_graphs(ours)


@pytest.fixture(scope="module")
def encode(graphs: dict[str, ModelProto]) -> Run:
    return in_onnxruntime(graphs["encoder"])


@pytest.fixture(scope="module")
def decode(graphs: dict[str, ModelProto]) -> Run:
    return in_onnxruntime(graphs["decoder"])


def assert_close(found: Any, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert np.abs(np.asarray(found) - expected.numpy()).max() < CLOSE * float(expected.abs().max())


def test_contract_asks_for_what_the_reflection_needs(theirs: Any, ours: AdaptedCodec) -> None:
    assert (ours.contract.encoder_start, ours.contract.decoder_start) == (START, START)
    zero = encodec.from_transformers(theirs.config.to_dict(), Weights(theirs.state_dict(), "theirs"))
    assert (zero.contract.encoder_start, zero.contract.decoder_start) == (1, 1)
    with pytest.raises(ValueError, match="exact or zero"):
        encodec.from_transformers({}, Weights({}, "none"), start="soft")  # type: ignore[arg-type]


@pytest.mark.parametrize("frames", [1, 2, 3, START - 1, START, START + 1, 60])
def test_clips_of_any_length_are_the_originals(
    theirs: Any, ours: AdaptedCodec, encode: Run, decode: Run, frames: int
) -> None:
    clip = noise(frames, batch=2)
    expected = theirs.encoder(clip).transpose(1, 2)
    assert_close(ours.encoder(clip, ours.encoder.zero_state(2))[0], expected)
    assert_close(encode(clip, ours.encoder.zero_state(2))[0], expected)
    audio = theirs.decoder(expected.transpose(1, 2))
    assert_close(ours.decoder(expected, ours.decoder.zero_state(2))[0], audio)
    assert_close(decode(expected, ours.decoder.zero_state(2))[0], audio)


@pytest.mark.parametrize("seed", range(4))
def test_streams_whose_first_call_is_long_enough_are_the_whole(
    ours: AdaptedCodec, encode: Run, decode: Run, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    clip = noise(50, batch=2).numpy()
    cuts = [0, START, *np.sort(rng.choice(np.arange(START + 1, 50), 8, replace=False)), 50]
    whole = encode(clip, ours.encoder.zero_state(2))[0]
    heard = decode(whole, ours.decoder.zero_state(2))[0]
    state, memory = ours.encoder.zero_state(2).numpy(), ours.decoder.zero_state(2).numpy()
    latents, audio = [], []
    for begin, end in pairwise(cuts):
        part, state = encode(clip[..., begin * FRAME : end * FRAME], state)
        sound, memory = decode(part, memory)
        latents.append(part)
        audio.append(sound)
    assert np.array_equal(np.concatenate(latents, axis=1), whole)
    assert np.array_equal(np.concatenate(audio, axis=2), heard)


def test_rows_of_a_batch_are_alone(ours: AdaptedCodec, encode: Run) -> None:
    clips = noise(20, batch=3)
    both = encode(clips, ours.encoder.zero_state(3))[0]
    for row, clip in zip(both, clips, strict=True):
        assert np.array_equal(row[None], encode(clip[None], ours.encoder.zero_state(1))[0])


@pytest.mark.parametrize("start", ["zero state", "silence"])
def test_negative_controls(theirs: Any, ours: AdaptedCodec, encode: Run, start: str) -> None:
    """A lost state in the middle of a stream, and a start from silence, are seen."""
    clip = noise(30)
    expected = theirs.encoder(clip).transpose(1, 2).numpy()
    zero = ours.encoder.zero_state(1)
    if start == "silence":
        plain = encodec.from_transformers(theirs.config.to_dict(), Weights(theirs.state_dict(), "theirs"))
        found = plain.encoder(clip, plain.encoder.zero_state(1))[0].numpy()
    else:
        found = np.concatenate([encode(part, zero)[0] for part in clip.chunk(2, dim=2)], axis=1)
    assert np.abs(found - expected).max() > 10 * CLOSE * np.abs(expected).max()
