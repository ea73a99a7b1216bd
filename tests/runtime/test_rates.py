"""How many bits a file takes: a mean of what is written, a quality, or a stage count; and which frames get them."""

import io
import json
from pathlib import Path

import edgecodec
import numpy as np
import pytest
from edgecodec.bitstream import Reader
from edgecodec.commands.main import app
from edgecodec.errors import BitrateError
from edgecodec.files.edgc import chunk_coder, make_header
from edgecodec.files.encoding import ChunkStream, Rate
from edgecodec.files.transcode import encode_file
from edgecodec.variable_rate import Costs
from typer.testing import CliRunner

CLIP = Path(__file__).parents[1] / "audio" / "speech_ro.flac"


@pytest.fixture(scope="module")
def speech() -> edgecodec.Codec:
    return edgecodec.load("speech")


def clip(seconds: float = 12.0) -> np.ndarray:
    import soundfile

    audio, rate = soundfile.read(CLIP, dtype="float32")
    assert rate == 24_000
    return np.resize(audio, round(seconds * rate))


def encoded(codec: edgecodec.Codec, rate: Rate, audio: np.ndarray, **how) -> list:
    header = make_header(codec, codec.sample_rate, 1, rate.stages or codec.max_stages)
    stream = ChunkStream(codec, header, chunk_coder(codec, header), rate, **how)
    chunks = []
    for start in range(0, len(audio), 5000):
        chunks += stream.push(audio[None, start : start + 5000])
    return chunks + stream.flush()


@pytest.mark.parametrize("kbps", [1.2, 3.0, 6.0])
@pytest.mark.parametrize("source", ["file", "pipe"])
def test_the_mean_of_what_is_written_is_what_was_asked_for(
    kbps: float, source: str, tmp_path: Path, monkeypatch
) -> None:
    """All heads counted, within 3 %; in a pipe as in a file."""
    import soundfile

    audio, path = clip(), tmp_path / "clip.wav"
    soundfile.write(path, audio, 24_000)
    call = ["encode", str(path) if source == "file" else "-", str(tmp_path / "clip.edgc"), "-b", str(kbps), "--json"]
    result = CliRunner().invoke(app, call, input=None if source == "file" else path.read_bytes())
    assert result.exit_code == 0, result.output
    size = (tmp_path / "clip.edgc").stat().st_size
    assert json.loads(result.stdout)["file_bytes"] == size
    assert size * 8 / 12 / 1000 == pytest.approx(kbps, rel=0.03)


def test_latents_that_come_in_long_calls_are_those_of_short_ones(speech: edgecodec.Codec) -> None:
    audio = np.stack([clip(9.0), clip(9.0)[::-1]])
    for part in (audio, audio[:1]):
        soon, late = (speech.latent_stream(channels=len(part), long_calls=late) for late in (False, True))
        parts = [[stream.push(block) for block in np.array_split(part, 50, axis=1)] for stream in (soon, late)]
        first, second = (
            np.concatenate([*found, stream.flush()], axis=1) for found, stream in zip(parts, (soon, late), strict=True)
        )
        assert np.array_equal(first, second)
        calls = [latents.shape[1] for latents in parts[1] if latents.shape[1]]
        assert set(calls) == {192 // len(part)} and len(calls) < 10 < len(parts[0])


def test_more_bits_go_where_they_take_more_error_away(speech: edgecodec.Codec) -> None:
    """At the same bits the error is less than with one count for all, and it falls with the quality."""
    audio = clip(6.0)
    latents = np.concatenate([(stream := speech.latent_stream()).push(audio[None]), stream.flush()], axis=1)
    variable = speech.variable_rate(effort="live")
    costs = variable.costs(latents, 75)
    fixed = np.full(latents.shape[:2], 4)
    counts = costs.counts(costs.price(costs.bits_of(fixed)))
    assert costs.bits_of(counts) <= costs.bits_of(fixed)

    def error(counts: np.ndarray) -> float:
        return float(np.take_along_axis(costs.errors, counts[:, None] - 1, axis=1).sum())

    assert error(counts) < 0.9 * error(fixed)
    assert len(np.unique(counts)) > 4
    sizes = [sum(len(c.body) for c in encoded(speech, Rate.of(speech, quality=q), audio)) for q in (1, 4, 7, 10)]
    assert sizes == sorted(sizes) and sizes[3] > 3 * sizes[0]


def test_counts_are_the_best_at_every_price() -> None:
    rng = np.random.default_rng(0)
    errors = -np.sort(-rng.random((2, 5, 30)), axis=1)
    costs = Costs(errors, rng.uniform(5, 10, (2, 5, 30)).cumsum(axis=1), np.zeros((2, 5, 30), np.int64))
    for price in (1e-4, 1e-2, 1.0):
        total = errors + price * costs.bits
        chosen = np.take_along_axis(total, costs.counts(price)[:, None] - 1, axis=1)
        assert np.array_equal(chosen[:, 0], total.min(axis=1))
    budgets = [150.0, 600.0, 1500.0, 1e6]
    taken = [costs.bits_of(costs.counts(costs.price(budget))) for budget in budgets]
    assert taken == sorted(taken) and all(t <= b for t, b in zip(taken[1:], budgets[1:], strict=True))


@pytest.mark.parametrize("name", ["speech", "wide"])
def test_a_constant_rate_has_the_codes_of_the_whole_clip(name: str) -> None:
    """Also of a codec that looks ahead, and whatever the blocks that come in."""
    codec = edgecodec.load("speech" if name == "speech" else Path(__file__).parent / "wide_bundle")
    audio = clip(3.0)
    stages = min(4, codec.max_stages)
    header = make_header(codec, codec.sample_rate, codec.channels, stages)
    coder = chunk_coder(codec, header)
    stream = ChunkStream(codec, header, coder, Rate(stages=stages), effort="live")
    block = np.tile(audio, (codec.channels, 1))
    chunks = []
    for start in range(0, block.shape[1], 777):
        chunks += stream.push(block[:, start : start + 777])
    chunks += stream.flush()
    codes = np.concatenate([packet.codes for packet in coder.decode(chunks)], axis=2)
    assert np.array_equal(codes, codec.encode(block, stages=stages))


def test_mixed_counts_decode_as_each_count_does(speech: edgecodec.Codec) -> None:
    """-1 stands for stages that a frame lacks; whole clips and streams give the same."""
    codes = speech.encode(clip(1.0), stages=6)
    counts = np.random.default_rng(0).integers(1, 7, (1, codes.shape[2]))
    mixed = speech.manifest.layout.cut(codes, counts)
    whole = speech.decode(mixed)[0, 0]
    stream = speech.decoder_stream()
    parts = [stream.push(edgecodec.Packet(i, mixed[:, :, i : i + 1])) for i in range(codes.shape[2])]
    assert np.abs(np.concatenate(parts)[speech.delay :] - whole).max() < 1e-4
    assert np.abs(whole - speech.decode(codes)[0, 0]).max() > 0.01
    assert np.array_equal(
        speech.decode(speech.manifest.layout.cut(codes, np.full_like(counts, 6))), speech.decode(codes)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bitrate": 3.0, "stages": 4}, "give one of"),
        ({"bitrate": 3.0, "quality": 4.0}, "give one of"),
        ({"bitrate": 0.2}, "cannot do 0.2 kbps; possible: 0.75 to 12"),
        ({"bitrate": 13.0}, "cannot do 13 kbps"),
        ({"quality": 11.0}, "quality is 0 to 10"),
        ({"quality": 4.0, "constant": True}, "goes with a variable rate"),
        ({"bitrate": 3.1, "constant": True}, "cannot do 3.1 kbps"),
        ({"stages": 17}, "has 1 to 16 stages"),
    ],
)
def test_rates_that_are_refused(options: dict, message: str, speech: edgecodec.Codec) -> None:
    with pytest.raises(BitrateError, match=message):
        Rate.of(speech, **options)


def test_a_constant_bitrate_is_a_stage_count(speech: edgecodec.Codec, tmp_path: Path) -> None:
    assert Rate.of(speech) == Rate(kbps=6.0)
    rate = Rate.of(speech, bitrate=3.0, constant=True)
    assert rate == Rate(stages=4)
    done = encode_file(speech, str(CLIP), str(tmp_path / "a.edgc"), rate=rate, effort="live")
    assert done.payload_kbps < 3.02  # an entropy model makes it less
    reader = Reader(io.BytesIO((tmp_path / "a.edgc").read_bytes()))
    assert {(chunk.stages, chunk.mixed) for chunk in reader} == {(4, False)}
