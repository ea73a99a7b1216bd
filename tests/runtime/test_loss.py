"""Packets that networks lose: gaps are filled in time and without a click, what is repeated recovers, late ones go."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec import BitrateError, BitstreamError, Codec, DecoderStatistics, EdgecodecError, Packet
from edgecodec.bitstream import Header, Reader, Writer
from edgecodec.bundle import shipped_bundles
from edgecodec.concealment import fade
from edgecodec.evaluation.loss_simulation import play, score
from edgecodec.evaluation.packet_loss import GilbertModel
from edgecodec.packets import SEQUENCE_MODULUS
from hypothesis import given, settings
from hypothesis import strategies as st

AUDIO = Path(__file__).parents[1] / "audio"
FRAME = 16


@pytest.fixture
def packets(codec: Codec, voice) -> list[Packet]:
    """200 frames, each packet repeating all stages of the one before."""
    encoder = codec.encoder_stream(stages=4, redundancy=4)
    return encoder.push(voice(FRAME * 200))


def decoded(codec: Codec, packets: list[Packet]) -> np.ndarray:
    decoder = codec.decoder_stream()
    return np.concatenate([decoder.push(packet) for packet in packets])


def plain(packet: Packet) -> Packet:
    return replace(packet, previous=None)


def test_packets_repeat_the_first_stages_of_the_one_before(codec: Codec, voice) -> None:
    encoder = codec.encoder_stream(stages=4, frames_per_packet=3, redundancy=2)
    packets = encoder.push(voice(FRAME * 9))
    encoder.redundancy = 0
    packets += encoder.push(voice(FRAME * 3))
    encoder.redundancy, encoder.stages = 3, 1
    packets += encoder.push(voice(FRAME * 6)) + encoder.flush()
    repeated = [None if packet.previous is None else packet.previous.shape for packet in packets]
    assert repeated == [None, (1, 2, 3), (1, 2, 3), None, (1, 3, 3), (1, 1, 3), (1, 1, 3)]
    for before, packet in pairwise(packets):
        if packet.previous is not None:
            assert np.array_equal(packet.previous, before.codes[:, : packet.previous.shape[1]])
    encoder.push(voice(FRAME * 3))
    encoder.reset()
    assert encoder.push(voice(FRAME * 3))[0].previous is None


def test_the_codes_do_not_depend_on_redundancy(codec: Codec, voice, packets: list[Packet]) -> None:
    codes = np.concatenate([packet.codes for packet in packets], axis=2)
    assert np.array_equal(codes, codec.encode(voice(FRAME * 200), stages=4)[:, :, :200])


@pytest.mark.parametrize("stages", [-1, 5, 1.5])
def test_impossible_redundancy(codec: Codec, stages: float) -> None:
    with pytest.raises(BitrateError):
        codec.encoder_stream(redundancy=stages)
    encoder = codec.encoder_stream(redundancy=2)
    with pytest.raises(BitrateError):
        encoder.redundancy = stages
    assert encoder.redundancy == 2


def test_nothing_lost_changes_nothing(codec: Codec, voice, packets: list[Packet]) -> None:
    whole = codec.decode(np.concatenate([packet.codes for packet in packets], axis=2))[0, 0]
    assert np.array_equal(decoded(codec, packets)[FRAME:], whole)


def test_a_gap_is_filled_in_time(codec: Codec, packets: list[Packet]) -> None:
    decoder = codec.decoder_stream()
    arrived = [plain(packet) for packet in packets[:50] + packets[53:]]
    audio = [decoder.push(packet) for packet in arrived]
    assert [len(block) for block in audio] == [FRAME] * 50 + [FRAME * 4] + [FRAME] * 146
    assert decoder.statistics == DecoderStatistics(received=197, concealed=3, recovered=0, late=0)
    whole, lossy = decoded(codec, packets), np.concatenate(audio)
    assert np.array_equal(lossy[: 50 * FRAME], whole[: 50 * FRAME])
    assert not np.allclose(lossy[51 * FRAME : 53 * FRAME], whole[51 * FRAME : 53 * FRAME], atol=1e-3)
    assert np.allclose(lossy[54 * FRAME :], whole[54 * FRAME :], atol=1e-6)  # one frame of overlap, then as before


def test_the_last_lost_packet_is_recovered_from_its_successor(codec: Codec, packets: list[Packet]) -> None:
    decoder = codec.decoder_stream()
    audio = np.concatenate([decoder.push(packet) for packet in packets[:50] + packets[51:]])
    assert decoder.statistics == DecoderStatistics(received=199, concealed=0, recovered=1, late=0)
    assert np.array_equal(audio, decoded(codec, packets))  # all stages were repeated
    decoder.reset()
    audio = np.concatenate([decoder.push(packet) for packet in packets[:50] + packets[53:]])
    assert decoder.statistics == DecoderStatistics(received=197, concealed=2, recovered=1, late=0)
    assert len(audio) == 200 * FRAME


def test_a_player_that_must_have_sound_now(codec: Codec, packets: list[Packet]) -> None:
    """Gaps that it asks for packet by packet sound as those that `push` fills."""
    waiting, playing = codec.decoder_stream(), codec.decoder_stream()
    arrived = {packet.sequence: packet for i, packet in enumerate(packets) if i % 7 and i % 5 != 2}
    expected = np.concatenate([waiting.push(packet) for packet in arrived.values()])
    audio = []
    for sequence in range(1, 200):
        packet = arrived.get(sequence)
        audio.append(playing.conceal(arrived.get(sequence + 1)) if packet is None else playing.push(packet))
        assert len(audio[-1]) == FRAME
    assert np.array_equal(np.concatenate(audio), expected)
    assert playing.statistics == waiting.statistics
    assert playing.statistics.recovered > 30 and playing.statistics.concealed > 0
    assert playing.statistics.received == len(arrived)


def test_only_the_next_packet_helps(codec: Codec, packets: list[Packet]) -> None:
    decoder = codec.decoder_stream()
    decoder.push(packets[0])
    for following in (None, packets[3], packets[1], plain(packets[2])):
        decoder.conceal(following)
        decoder.reset()
        decoder.push(packets[0])
    decoder.conceal(packets[2])
    assert decoder.statistics == DecoderStatistics(received=1, concealed=0, recovered=1, late=0)


def test_late_and_duplicate_packets_are_dropped(codec: Codec, packets: list[Packet]) -> None:
    decoder = codec.decoder_stream()
    arrived = [packets[i] for i in (0, 1, 1, 2, 4, 3, 5, 0)]
    audio = [decoder.push(plain(packet)) for packet in arrived]
    assert [len(block) // FRAME for block in audio] == [1, 1, 0, 1, 2, 0, 1, 0]
    assert decoder.statistics == DecoderStatistics(received=5, concealed=1, recovered=0, late=3)
    decoder.conceal()
    assert len(decoder.push(packets[6])) == 0  # it was answered for
    assert decoder.statistics.late == 4


def test_sequences_pass_their_modulus(codec: Codec, packets: list[Packet]) -> None:
    decoder = codec.decoder_stream()
    start = SEQUENCE_MODULUS - 100
    shifted = [replace(packet, sequence=(start + packet.sequence) % SEQUENCE_MODULUS) for packet in packets]
    audio = np.concatenate([decoder.push(packet) for packet in shifted[:99] + shifted[100:120] + shifted[121:]])
    assert np.array_equal(audio, decoded(codec, packets))
    assert decoder.statistics == DecoderStatistics(received=198, concealed=0, recovered=2, late=0)


@pytest.mark.parametrize("jump", [5001, 30_000, -5001, -30_000])  # 5000 frames of the tiny bundle are 10 s
def test_a_far_jump_is_another_stream(codec: Codec, packets: list[Packet], jump: int) -> None:
    decoder = codec.decoder_stream()
    decoder.push(packets[0])
    sequence = (1 + jump) % SEQUENCE_MODULUS
    assert len(decoder.push(replace(packets[1], sequence=sequence))) == FRAME
    assert len(decoder.push(replace(packets[2], sequence=sequence + 1))) == FRAME
    assert decoder.statistics == DecoderStatistics(received=3, concealed=0, recovered=0, late=0)


def test_before_the_first_packet_there_is_silence(codec: Codec, packets: list[Packet]) -> None:
    decoder = codec.decoder_stream(channels=1)
    assert np.array_equal(decoder.conceal(frames=3), np.zeros(3 * FRAME, np.float32))
    assert len(decoder.conceal(packets[5])) == FRAME  # joined in mid-stream: packet 4 is known from packet 5
    assert decoder.statistics == DecoderStatistics(received=0, concealed=1, recovered=1, late=0)
    assert len(decoder.push(packets[5])) == FRAME
    for frames in (0, 256):
        with pytest.raises(BitstreamError):
            decoder.conceal(frames=frames)


def test_concealed_sound_fades_to_silence(codec: Codec, packets: list[Packet]) -> None:
    decoder = codec.decoder_stream()
    last = decoder.push(packets[0])
    last = decoder.push(packets[1])
    gap = np.concatenate([decoder.conceal() for _ in range(500)])  # a second
    level = [float(np.sqrt(np.mean(block**2))) for block in np.split(gap, 10)]
    heard = float(np.sqrt(np.mean(last**2)))
    assert level[0] > 0.2 * heard
    assert level[2] < 0.1 * heard
    assert np.array_equal(level[2:], sorted(level[2:])) or np.ptp(level[2:]) < 1e-6  # stays where it is
    silence = codec.decode(codec.encode(np.zeros(800, np.float32), stages=4))
    assert np.abs(gap[-160:]).max() <= np.abs(silence).max() + 1e-6


def test_fading_latents() -> None:
    last, silence = np.full((2, 1, 3), 5, np.float32), np.full((1, 1, 3), 1, np.float32)
    whole = fade(last, silence, 0, 10, 7)
    assert whole.dtype == np.float32 and whole.shape == (2, 10, 3)
    assert np.array_equal(whole[:, 7:], np.ones((2, 3, 3), np.float32))
    assert (np.diff(whole[0, :8, 0]) < 0).all() and whole[0, 0, 0] < 5
    pieces = [fade(last, silence, done, frames, 7) for done, frames in ((0, 1), (1, 4), (5, 5))]
    assert np.array_equal(np.concatenate(pieces, axis=1), whole)


def test_latents_that_turn_into_the_following_ones() -> None:
    last, silence, following = (np.full((1, 1, 3), value, np.float32) for value in (5, 1, 9))
    assert np.array_equal(fade(last, silence, 0, 1, 7, following)[0, :, 0], [7])
    assert np.allclose(fade(last, silence, 0, 3, 7, following)[0, :, 0], [6, 7, 8])
    assert np.array_equal(fade(last, silence, 7, 1, 7, following)[0, :, 0], [5])  # halfway up, out of silence
    long = fade(last, silence, 0, 30, 7, following)
    assert long.dtype == np.float32 and long.shape == (1, 30, 3)
    assert np.array_equal(long[:, :7], fade(last, silence, 0, 7, 7))
    assert (long[:, 7:23] == 1).all()
    assert np.allclose(long[0, 23:, 0], np.arange(2, 9))


def test_the_following_packet_shapes_what_is_concealed(codec: Codec, packets: list[Packet]) -> None:
    """Nearer to what was lost than a sound that only fades, over many single losses."""
    whole = decoded(codec, packets)
    errors = []
    for following in (False, True):
        error = 0.0
        for lost in range(20, 180, 8):
            decoder = codec.decoder_stream()
            for packet in packets[:lost]:
                decoder.push(plain(packet))
            audio = decoder.conceal(plain(packets[lost + 1]) if following else None)
            audio = np.concatenate([audio, decoder.push(plain(packets[lost + 1]))])
            error += float(np.square(audio - whole[lost * FRAME : (lost + 2) * FRAME]).sum())
            assert decoder.statistics == DecoderStatistics(received=lost + 1, concealed=1, recovered=0, late=0)
        errors.append(error)
    assert errors[1] < errors[0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.05, 0.3, 0.6]), repeat=st.integers(0, 4))
def test_no_click_and_nothing_beyond_full_scale(codec: Codec, voice, seed: int, share: float, repeat: int) -> None:
    audio = voice(FRAME * 150, seed)
    encoder = codec.encoder_stream(stages=4, redundancy=repeat)
    packets = encoder.push(audio / np.abs(audio).max())
    lost = np.random.default_rng(seed).random(150) < share
    whole, _ = play(codec, packets, np.zeros_like(lost))
    lossy, statistics = play(codec, packets, lost)
    assert lossy.shape == whole.shape
    assert np.abs(lossy).max() <= max(1, np.abs(whole[:, : FRAME * int(lost.argmax())]).max(initial=0))
    assert np.abs(np.diff(lossy)).max() <= 2 * np.abs(np.diff(whole)).max()
    assert statistics.received == 150 - lost.sum()
    assert statistics.concealed + statistics.recovered == lost.sum()


def test_every_channel_is_bridged(codec: Codec, voice) -> None:
    audio = np.stack([voice(FRAME * 60, seed) for seed in range(3)])
    encoder = codec.encoder_stream(stages=4, channels=3, frames_per_packet=2, redundancy=1)
    packets = encoder.push(audio)
    lost = np.zeros(30, np.bool_)
    lost[[4, 5, 12]] = True
    together, _ = play(codec, packets, lost)
    for channel in range(3):
        alone = [
            Packet(p.sequence, p.codes[[channel]], None if p.previous is None else p.previous[[channel]])
            for p in packets
        ]
        assert np.allclose(play(codec, alone, lost)[0], together[[channel]], atol=1e-6)


def test_refused_packets_leave_the_stream_as_it_was(codec: Codec, packets: list[Packet]) -> None:
    decoder = codec.decoder_stream()
    for packet in packets[:5]:
        decoder.push(packet)
    wrong = replace(packets[6], previous=packets[6].previous + 16)
    with pytest.raises(BitstreamError):
        decoder.push(wrong)
    with pytest.raises(BitstreamError):
        decoder.conceal(wrong)
    assert decoder.statistics == DecoderStatistics(received=5, concealed=0, recovered=0, late=0)
    audio = np.concatenate([decoder.push(packet) for packet in packets[6:]])
    assert np.array_equal(audio, decoded(codec, packets)[5 * FRAME :])


@given(
    channels=st.integers(1, 3),
    bits=st.integers(1, 16),
    own=st.tuples(st.integers(1, 8), st.integers(1, 12)),
    repeated=st.tuples(st.integers(1, 8), st.integers(1, 12)),
    keep=st.integers(1, 9),
)
def test_redundant_packets_as_bytes(channels: int, bits: int, own: tuple, repeated: tuple, keep: int) -> None:
    rng = np.random.default_rng(keep)
    packet = Packet(7, rng.integers(0, 2**bits, (channels, *own)), rng.integers(0, 2**bits, (channels, *repeated)))
    form = edgecodec.PacketFormat(channels, bits)
    data = form.to_bytes(packet)
    assert len(data) == 9 + form.payload_size(*own) + form.payload_size(*repeated)
    back = form.from_bytes(data)
    assert back.sequence == 7
    assert np.array_equal(back.codes, packet.codes)
    assert np.array_equal(back.previous, packet.previous)
    assert form.truncate(data, keep) == form.to_bytes(packet.truncate(keep))
    for end in range(len(data)):
        with pytest.raises(BitstreamError):
            form.from_bytes(data[:end])
    for at in range(len(data)):
        with pytest.raises(BitstreamError):
            form.from_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])


@given(st.binary(max_size=60))
def test_garbage_is_no_redundant_packet(data: bytes) -> None:
    with pytest.raises(BitstreamError):
        edgecodec.PacketFormat(1, 10).from_bytes(b"R" + data)


def test_files_hold_no_redundancy(codec: Codec, packets: list[Packet], tmp_path: Path) -> None:
    header = Header(codec.fingerprint, "tiny", 8000, 16, 8000, 1, 4, 4, 1, version=1)
    for name, some in (("redundant", packets), ("plain", [plain(packet) for packet in packets])):
        with (tmp_path / name).open("wb") as file, Writer(file, header) as writer:
            for packet in some:
                writer.write(packet)
            writer.samples = 3000
    assert (tmp_path / "redundant").read_bytes() == (tmp_path / "plain").read_bytes()
    smuggled = header.to_bytes() + codec.packet_format().to_bytes(packets[1])
    (tmp_path / "smuggled").write_bytes(smuggled)
    with (tmp_path / "smuggled").open("rb") as file:
        reader = Reader(file)
        assert list(reader) == []
        assert "damaged" in reader.damage[0]


@pytest.mark.parametrize(("loss", "burst"), [(0.1, 1 / 0.9), (0.1, 3.0), (0.4, 10.0), (0.6, 1.5), (0.0, 5.0)])
def test_the_gilbert_model_loses_what_it_says(loss: float, burst: float) -> None:
    lost = GilbertModel(loss, burst).draw(300_000, np.random.default_rng(1))
    assert lost.mean() == pytest.approx(loss, rel=0.05)
    bursts = int((lost[1:] & ~lost[:-1]).sum())
    if loss:
        assert lost.sum() / bursts == pytest.approx(burst, rel=0.03)
    again = GilbertModel(loss, burst).draw(300_000, np.random.default_rng(1))
    assert np.array_equal(lost, again)


@pytest.mark.parametrize(
    ("loss", "burst"), [(-0.1, 2), (1.0, 2), (float("nan"), 2), (0.1, 0.5), (0.9, 2), (0.1, np.inf)]
)
def test_impossible_loss(loss: float, burst: float) -> None:
    with pytest.raises(EdgecodecError):
        GilbertModel(loss, burst)


def test_simulate_loss_writes_and_reports(run, tiny: Path, clip: Path) -> None:
    args = ("simulate-loss", clip, "out.wav", "--bundle", tiny, "-b", 8, "--burst", 3, "--redundancy", 2)
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    assert "12.02 kbps payload" in result.stdout  # 4 stages and 2 more, for 501 frames
    assert "recovered" in result.stdout and "PESQ-WB" in result.stdout
    assert soundfile.info("out.wav").frames == 8000
    first = Path("out.wav").read_bytes()
    assert run(*args).exit_code == 1  # the file exists
    report = json.loads(run(*args, "-f", "--json").stdout)
    assert Path("out.wav").read_bytes() == first
    assert report["packets"] == 501
    assert report["lost"] == report["concealed"] + report["recovered"] > 0
    other = json.loads(run(*args, "-f", "--json", "--seed", 1).stdout)
    assert Path("out.wav").read_bytes() != first
    assert other["packets"] == 501


def test_no_loss_is_a_roundtrip(run, tiny: Path, clip: Path) -> None:
    assert run("simulate-loss", clip, "out.wav", "--bundle", tiny, "--loss", 0).exit_code == 0
    assert run("roundtrip", clip, "again.wav", "--bundle", tiny, "--cbr", "--effort", "live").exit_code == 0
    assert Path("out.wav").read_bytes() == Path("again.wav").read_bytes()


def test_simulate_loss_at_other_rates_and_channels(run, tiny: Path, voice) -> None:
    soundfile.write("stereo.wav", np.stack([voice(12_345), voice(12_345, 1)], axis=1), 11_025)
    result = run("simulate-loss", "stereo.wav", "-", "--bundle", tiny, "--frames-per-packet", 4)
    assert result.exit_code == 0, result.stderr
    assert "concealed" in result.stderr
    result = run("simulate-loss", "stereo.wav", "out.flac", "--bundle", tiny, "--frames-per-packet", 4)
    info = soundfile.info("out.flac")
    assert (info.samplerate, info.channels, info.frames) == (11_025, 2, 12_345)


@pytest.mark.parametrize("args", [["--loss", 100], ["--loss", -1], ["--burst", 0.5], ["--redundancy", 5], ["-q", 5],
                                  ["--frames-per-packet", 0], ["--seed", -1]])  # fmt: skip
def test_simulate_loss_usage_errors(run, tiny: Path, clip: Path, args: list) -> None:
    assert run("simulate-loss", clip, "out.wav", "--bundle", tiny, *args).exit_code == 2
    assert not Path("out.wav").exists()


def test_without_the_packages_for_scores_it_says_what_to_install(run, tiny: Path, clip: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pesq", None)
    result = run("simulate-loss", clip, "out.wav", "--bundle", tiny)
    assert result.exit_code == 0
    assert "PESQ" not in result.stdout
    assert result.stderr == "edgecodec: scores need pesq: pip install 'edgecodec[eval]'\n"
    assert Path("out.wav").exists()


def test_scores_tell_better_from_worse_and_silence_from_speech() -> None:
    audio, rate = soundfile.read(AUDIO / "speech_es.flac", dtype="float32")
    clean = audio[None]
    noisy = clean + 0.05 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    same, worse = score(clean, clean, rate), score(clean, noisy, rate)
    assert same.pesq_wb == pytest.approx(4.644, abs=0.01)
    assert same.estoi == pytest.approx(1, abs=1e-3)
    assert worse.pesq_wb < 2 and worse.estoi < 0.9
    silent = score(np.zeros_like(clean), np.zeros_like(clean), rate)
    assert silent.pesq_wb is None and silent.estoi is None
    brief = score(clean[:, :2000], clean[:, :2000], rate)
    assert brief.pesq_wb is None and brief.estoi is None


@pytest.mark.skipif("speech" not in shipped_bundles(), reason="this checkout ships no speech bundle")
def test_a_tenth_of_real_speech_lost_keeps_three_quarters_of_its_score() -> None:
    codec = edgecodec.load("speech")
    shares = []
    for seed, name in enumerate(("speech_es.flac", "speech_ro.flac")):
        audio, rate = soundfile.read(AUDIO / name, dtype="float32")
        assert rate == codec.sample_rate
        encoder = codec.encoder_stream(bitrate=6, redundancy=2)
        packets = encoder.push(audio) + encoder.flush()
        lost = GilbertModel(0.1, 1 / 0.9).draw(len(packets), np.random.default_rng(seed))
        lossy, statistics = play(codec, packets, lost)
        whole = codec.decode(codec.encode(audio, bitrate=6))[0]
        lossy, whole = lossy[:, : len(audio)], whole[:, : len(audio)]
        assert statistics.recovered > 0.8 * lost.sum() > 10
        assert np.abs(lossy).max() <= 1
        assert np.abs(np.diff(lossy)).max() <= 2 * np.abs(np.diff(whole)).max()
        shares.append(
            score(audio[None], lossy, rate).pesq_wb / score(audio[None], whole, rate).pesq_wb,
        )
    assert np.mean(shares) >= 0.75, shares
