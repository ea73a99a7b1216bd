"""Vectors for ports: they are what the codec makes, alike in both forms, and a port in plain steps finds them again."""

import base64
import json
import zipfile
from itertools import pairwise
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec import Codec
from edgecodec.files.in_memory import decode_clip
from edgecodec.files.port_vectors import SECONDS, port_vectors, read_clip, to_json, to_npz

HERE = Path(__file__).parent
SPEECH = HERE.parent / "audio" / "speech_es.flac"


@pytest.fixture(scope="module", params=["tiny_bundle", "paths_bundle", "wide_bundle"])
def made(request: pytest.FixtureRequest) -> tuple[Codec, dict[str, np.ndarray]]:
    codec = edgecodec.load(HERE / request.param)
    return codec, port_vectors(codec, read_clip(codec, str(SPEECH)))


def test_whole_clips(made: tuple[Codec, dict[str, np.ndarray]]) -> None:
    codec, arrays = made
    audio = arrays["audio"]
    assert audio.shape == (1, codec.channels, round(SECONDS * codec.sample_rate))
    for n in (1, codec.max_stages):
        assert np.array_equal(codec.encode(audio, stages=n), arrays[f"codes_{n}"])
        assert np.array_equal(codec.decode(arrays[f"codes_{n}"], samples=audio.shape[2]), arrays[f"decoded_{n}"])
    assert arrays["latents"].shape[1:] == (arrays["codes_1"].shape[2], codec.manifest.latent_dim)


def test_packets_and_what_a_loss_does(made: tuple[Codec, dict[str, np.ndarray]]) -> None:
    codec, arrays = made
    form, ends = codec.packet_format(channels=codec.channels), [0, *arrays["packet_ends"].tolist()]
    data = arrays["packets"].tobytes()
    packets = [form.from_bytes(data[a:b]) for a, b in pairwise(ends)]
    assert [packet.stages for packet in packets] == arrays["packet_stages"].tolist()
    assert len(set(arrays["packet_stages"].tolist())) == 2
    assert len(arrays["lost"]) == 3
    decoder = codec.decoder_stream(channels=codec.channels)
    lost, heard = set(arrays["lost"].tolist()), []
    for i, packet in enumerate(packets):
        there = i + 1 < len(packets) and i + 1 not in lost
        sound = decoder.conceal(packets[i + 1] if there else None) if i in lost else decoder.push(packet)
        heard.append(np.atleast_2d(sound))
    assert (decoder.statistics.recovered, decoder.statistics.concealed) == (2, 1)
    heard.append(np.atleast_2d(decoder.flush()))
    assert np.array_equal(np.concatenate(heard, axis=1), arrays["heard"])


def test_files(made: tuple[Codec, dict[str, np.ndarray]]) -> None:
    codec, arrays = made
    for name in ("fixed", "variable"):
        decoded = decode_clip(codec, arrays[f"edgc_{name}"].tobytes())
        assert np.array_equal(decoded, arrays[f"edgc_{name}_decoded"])
        assert decoded.shape[1] == arrays["audio"].shape[2]


def test_both_forms_hold_the_same(made: tuple[Codec, dict[str, np.ndarray]], tmp_path: Path) -> None:
    _, arrays = made
    path = tmp_path / "vectors.npz"
    path.write_bytes(to_npz(arrays))
    with zipfile.ZipFile(path) as file:
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
    twin = json.loads(to_json(arrays))
    with np.load(path) as stored:
        assert set(stored) == set(twin) == set(arrays)
        for name in stored:
            data = np.frombuffer(base64.b64decode(twin[name]["base64"]), twin[name]["type"])
            assert np.array_equal(data.reshape(twin[name]["shape"]), stored[name])


def test_states_are_those_after_each_frame() -> None:
    codec = edgecodec.load(HERE / "tiny_bundle")
    arrays = port_vectors(codec, read_clip(codec, str(SPEECH)))
    assert arrays["encoder_states"].shape == (5, codec.manifest.state.encoder)
    assert arrays["decoder_states"].shape == (5, codec.manifest.state.decoder)
    assert len(np.unique(arrays["encoder_states"], axis=0)) == 5


def test_short_clips_and_many_channels(tmp_path: Path) -> None:
    codec = edgecodec.load(HERE / "tiny_bundle")
    soundfile.write(tmp_path / "short.wav", np.zeros((700, 3)), 44100)
    audio = read_clip(codec, str(tmp_path / "short.wav"))
    assert len(audio) == codec.channels
    assert len(port_vectors(codec, audio)["packet_ends"]) >= 1
