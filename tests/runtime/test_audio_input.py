"""Audio of every container is read whole, or refused in one line: joined files, unknown lengths, odd headers, cuts."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec.errors import AudioError, DamageWarning, DataError, ScaleWarning
from edgecodec.evaluation.clips import decode, find_clips
from edgecodec.files.audio import open_audio
from edgecodec.files.mpeg_checksum import checksum

RATE = 24_000
KINDS = {"mp3": ("MP3", None), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "flac": ("FLAC", "PCM_16"),
         "wav": ("WAV", "PCM_16"), "law.wav": ("WAV", "ULAW"), "aiff": ("AIFF", "PCM_16"), "au": ("AU", "PCM_16"),
         "caf": ("CAF", "PCM_16"), "w64": ("W64", "PCM_16"), "rf64": ("RF64", "PCM_16")}  # fmt: skip


def tone(samples: int, hertz: float = 300, loud: float = 0.3) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)).astype(np.float32)


def coded(kind: str, audio: np.ndarray, rate: int = RATE, **options: object) -> bytes:
    file = io.BytesIO()
    form, subtype = KINDS[kind]
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=form, **options) as sound:
        sound.write(audio)
    return file.getvalue()


def read(folder: Path, data: bytes, name: str = "in") -> np.ndarray:
    (folder / name).write_bytes(data)
    with open_audio(str(folder / name)) as audio:
        return np.concatenate([np.zeros((audio.channels, 0)), *audio.blocks()], axis=1)


def piped(data: bytes, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What is read of standard input, which gives it in small pieces."""

    class Pipe(io.RawIOBase):
        file = io.BytesIO(data)

        def read(self, size: int = -1) -> bytes:
            return self.file.read(min(size, 777))

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Pipe()}))
    with open_audio("-") as audio:
        return np.concatenate([np.zeros((audio.channels, 0)), *audio.blocks()], axis=1)


# --- joined end to end


TAG = b"ID3\x04\0\0\0\0\0\x0a" + b"\0" * 10


@pytest.mark.parametrize(("kind", "tag"), [*((kind, b"") for kind in KINDS), ("mp3", TAG)])
def test_files_joined_end_to_end_are_read_whole(tmp_path: Path, kind: str, tag: bytes) -> None:
    parts = [coded(kind, tone(samples, 200 + samples % 300)) for samples in (RATE, 3001, 20_000)]
    apart = np.concatenate([read(tmp_path, part) for part in parts], axis=1)
    assert apart.shape == (1, RATE + 23_001)
    joined = read(tmp_path, tag.join(parts))
    assert joined.shape == apart.shape
    assert np.abs(joined - apart).max() < 1e-6


def test_joined_files_that_differ_are_refused(tmp_path: Path) -> None:
    for kind in KINDS:
        for second in (coded(kind, tone(9000), 16_000), coded(kind, np.stack([tone(9000)] * 2, axis=1))):
            with pytest.raises(AudioError, match=r"in: several files in one, of 1 channels at 24000 Hz, then of"):
                read(tmp_path, coded(kind, tone(9000)) + second)


def test_joined_wav_from_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = coded("wav", tone(RATE))
    unknown = known[:4] + b"\xff" * 4 + known[8:40] + b"\xff" * 4 + known[44:]
    expected = read(tmp_path, known)
    for data in (known + known, unknown + unknown, known + unknown, unknown + known):
        for joined in (read(tmp_path, data), piped(data, monkeypatch)):
            assert np.array_equal(joined, np.tile(expected, 2))


def test_what_follows_the_samples_and_is_no_chunk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wav = coded("wav", tone(5000))
    grown = wav + tone(3000).astype("<f4").tobytes()  # as if its header had never been brought up to date
    for call in (lambda: read(tmp_path, grown), lambda: piped(grown, monkeypatch)):
        with pytest.raises(AudioError, match="what follows its samples at byte 10044 is no part"):
            call()
    for harmless in (
        bytes(500),
        b"TAG" + bytes(125),
        b"ID3\x04" + bytes(20),
        b"LIST\x04\0\0\0abcd",
        b"LIST\xff\0\0\0a",
    ):
        assert read(tmp_path, wav + harmless).shape == (1, 5000)


# --- MP3 whose length nothing tells


def without_info(data: bytes) -> bytes:
    """MP3 at 24 kHz without its first frame, which says how many follow."""
    kbps = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[data[2] >> 4]
    return data[72 * kbps * 1000 // RATE + (data[2] >> 1 & 1) :]


def test_mp3_of_variable_rate_without_a_header_and_with_a_loud_start(run, tiny: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32) * np.float32(0.3)
    whole = coded("mp3", np.concatenate([noise, tone(16 * RATE, 300, 0.001)]), bitrate_mode="VARIABLE")
    (tmp_path / "in.mp3").write_bytes(without_info(whole))
    assert soundfile.info(tmp_path / "in.mp3").duration < 8  # what libsndfile believes
    result = run("encode", "in.mp3", "out.edgc", "--bundle", tiny, "-q", 1)
    assert result.exit_code == 0
    assert "encoded 18.0" in result.stdout


def test_mp3_whose_header_says_too_little_or_too_much(tmp_path: Path) -> None:
    data = coded("mp3", tone(RATE))
    at = data.index(b"Xing") + 8
    frames = int.from_bytes(data[at : at + 4], "big")
    less = data[:at] + (frames // 2).to_bytes(4, "big") + data[at + 4 :]
    assert read(tmp_path, less).shape == read(tmp_path, data).shape
    more = data[:at] + (frames + 9).to_bytes(4, "big") + data[at + 4 :]
    with pytest.raises(AudioError, match=f"truncated, its header promises {frames + 9} frames, it has {frames}"):
        read(tmp_path, more)


# --- unknown lengths


def flac_of_unknown_length(audio: np.ndarray) -> bytes:
    data = bytearray(coded("flac", audio))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def test_flac_of_unknown_length(run, tiny: Path, tmp_path: Path) -> None:
    data = flac_of_unknown_length(tone(3 * RATE))
    assert np.abs(read(tmp_path, data, "in.flac")[0] - tone(3 * RATE)).max() < 1e-4
    assert read(tmp_path, data + data).shape == (1, 6 * RATE)
    assert read(tmp_path, data + b"TAG" + bytes(125)).shape == (1, 3 * RATE)
    with pytest.raises(AudioError, match="damaged at sample"):
        read(tmp_path, data[:-100])
    assert find_clips([tmp_path / "in.flac"], RATE)[0].seconds == 3
    decoded = decode(data, RATE, longest=1, random=np.random.default_rng(0))
    assert (len(decoded.audio), decoded.seconds) == (RATE, 3)
    assert run("encode", "in.flac", "out.edgc", "--bundle", tiny).exit_code == 0


def flac_that_says(samples: int, data: bytes) -> bytes:
    said = int.from_bytes(data[21:26], "big") >> 36 << 36 | samples
    return data[:21] + said.to_bytes(5, "big") + data[26:]


@pytest.mark.parametrize("form", ["mono", "stereo of high rate", "many frames"])
def test_flac_whose_header_says_too_little(run, tiny: Path, tmp_path: Path, form: str) -> None:
    audio, rate = {
        "mono": (tone(2 * RATE), RATE),
        "stereo of high rate": (np.stack([tone(2 * RATE), tone(2 * RATE, 500)], axis=1), 96_000),
        "many frames": (np.tile(tone(RATE), 60), 8000),  # whose number takes two bytes
    }[form]
    data = coded("flac", audio, rate)
    whole = read(tmp_path, data)
    assert whole.shape[1] == len(audio)
    for said in (1, len(audio) // 3, len(audio) - 1):
        less = flac_that_says(said, data)
        assert np.array_equal(read(tmp_path, less), whole)
        assert np.array_equal(read(tmp_path, less + data), np.concatenate([whole, whole], axis=1))
        with open_audio(str(tmp_path / "in")) as opened:
            assert opened.samples is None  # of two
    (tmp_path / "in.flac").write_bytes(less)
    with open_audio(str(tmp_path / "in.flac")) as opened:
        assert opened.samples == len(audio)
    assert find_clips([tmp_path / "in.flac"], rate)[0].seconds == pytest.approx(len(audio) / rate)
    with pytest.raises(AudioError, match=f"truncated, {len(audio)} of {len(audio) + 1} samples"):
        read(tmp_path, flac_that_says(len(audio) + 1, data))


def test_flac_that_begins_in_the_middle_of_a_recording(tmp_path: Path) -> None:
    """Its frames are numbered on: what it says is right."""
    data = coded("flac", np.tile(tone(RATE), 4))
    head, last = 4, 0
    while not last:  # blocks before the sound
        last = data[head] & 0x80
        head += 4 + int.from_bytes(data[head + 1 : head + 4], "big")
    frames = [at for at in range(head, len(data)) if data[at : at + 2] == b"\xff\xf8" and data[at + 4] < 128]
    second = next(at for at in frames if data[at + 4] == 1)
    cut = flac_that_says(4 * RATE - 4096, data[:head] + data[second:])
    assert read(tmp_path, cut).shape == (1, 4 * RATE - 4096)


SIZES = [0, 2_000_000_000, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36]


@pytest.mark.parametrize("size", SIZES)
def test_wav_of_placeholder_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    whole = coded("wav", tone(5000))
    expected = read(tmp_path, whole)
    for riff in {size, min(size + 36, 0xFFFFFFFF), size or 36}:
        data = whole[:4] + struct.pack("<I", riff) + whole[8:40] + struct.pack("<I", size) + whole[44:]
        assert np.array_equal(read(tmp_path, data), expected)
        assert np.array_equal(piped(data, monkeypatch), expected)
        assert read(tmp_path, data[:44]).shape == (1, 0)


def test_wav_that_is_truly_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wav = coded("wav", tone(1))[:40] + bytes(4) + b"LIST\x04\0\0\0abcd"
    wav = wav[:4] + struct.pack("<I", len(wav) - 8) + wav[8:]
    assert read(tmp_path, wav).shape == piped(wav, monkeypatch).shape == (1, 0)


# --- WAV as others write it


def wav_of(form: bytes, data: bytes, *, before: bytes = b"", after: bytes = b"") -> bytes:
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + before + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks + after)) + chunks + after


def test_samples_of_24_bits_in_4_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (tone(RATE).astype(np.float64) * (1 << 31)).astype("<i4") & ~0xFF
    data = wav_of(struct.pack("<HHIIHH", 1, 1, RATE, 4 * RATE, 4, 24), numbers.tobytes())
    for audio in (read(tmp_path, data), piped(data, monkeypatch)):
        assert np.abs(audio[0] - tone(RATE)).max() < 1e-6


@pytest.mark.parametrize(("held", "valid"), [(16, 12), (24, 20), (32, 24), (32, 20), (32, 32), (8, 8), (24, 24)])
def test_wav_extensible_of_any_valid_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, valid: int
) -> None:
    source = np.stack([tone(4000), tone(4000, 500)], axis=1)
    subtype = {8: "PCM_U8", 16: "PCM_16", 24: "PCM_24", 32: "PCM_32"}[held]
    file = io.BytesIO()
    soundfile.write(file, source, RATE, format="WAVEX", subtype=subtype)
    data = bytearray(file.getvalue())
    at = data.index(b"fmt ") + 8
    data[at + 18 : at + 20] = struct.pack("<H", valid)
    for audio in (read(tmp_path, bytes(data)), piped(bytes(data), monkeypatch)):
        assert np.abs(audio.T - source).max() < 0.01
    data[at + 14 : at + 16] = struct.pack("<H", valid)  # not after the standard, but seen
    assert np.abs(read(tmp_path, bytes(data)).T - source).max() < 0.01


@pytest.mark.parametrize("filled", [True, False])
def test_chunks_of_odd_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filled: bool) -> None:
    fill = b"\0" if filled else b""
    form = struct.pack("<HHIIHH", 1, 1, RATE, RATE, 1, 8)
    note = b"LIST\x05\0\0\0abcde" + fill
    samples = bytes(range(100, 131))  # an odd number
    data = wav_of(form, samples, before=note + b"note\x03\0\0\0xyz" + fill, after=fill + note)
    for joined, times in ((data, 1), (data + data, 2)):
        for audio in (read(tmp_path, joined), piped(joined, monkeypatch)):
            assert np.array_equal(audio[0], np.tile((np.arange(100, 131) - 128) / 128, times))


def test_a_large_chunk_before_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = b"id3 " + struct.pack("<I", 3_000_000) + bytes(3_000_000)
    data = wav_of(struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16), bytes(2000), before=picture)
    assert read(tmp_path, data).shape == piped(data, monkeypatch).shape == (1, 1000)


# --- truncated


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_say_so(tmp_path: Path, kind: str) -> None:
    data = coded(kind, tone(2 * RATE))
    assert read(tmp_path, data).shape == (1, 2 * RATE)
    for size in (len(data) - 5, len(data) * 2 // 3, len(data) // 3):
        with pytest.raises(AudioError, match=r"^\S+: (truncated|damaged)"):
            read(tmp_path, data[:size])


@pytest.mark.parametrize("kind", ["mp3", "ogg", "opus", "flac"])
def test_damage_in_the_middle_is_no_shorter_file(tmp_path: Path, kind: str) -> None:
    data = bytearray(coded(kind, np.tile(tone(RATE, 333), 4)))
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400) if kind != "mp3" else b"\x55" * 400
    with pytest.raises(AudioError, match=r"^\S+: damaged"):
        read(tmp_path, bytes(data))


def test_damage_within_a_frame_of_mp3_is_said(tiny: Path, tmp_path: Path) -> None:
    """libsndfile plays on; the frame by LAME has a checksum of all others."""
    data = coded("mp3", np.tile(tone(RATE, 333), 8))
    for place in (len(data) // 2 + 100, len(data) - 40):
        spoilt = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        with pytest.warns(DamageWarning, match="its checksum is not that of its sound"):
            assert read(tmp_path, spoilt, "in.mp3").shape == (1, 8 * RATE)
    command = [Path(sys.executable).parent / "edgecodec", "encode", "in.mp3", "out.edgc", "--bundle", tiny]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    says = "in.mp3: its checksum is not that of its sound: it was damaged, or edited, since it was made"
    assert done.stderr == f"edgecodec: {says}\n"
    assert read(tmp_path, TAG + data + b"TAG" + bytes(125)).shape == (1, 8 * RATE)  # no warning: tags are no sound


def test_the_checksum_of_mp3_is_that_of_any_block_size() -> None:
    data = np.random.default_rng(0).integers(0, 256, 3 * 4096 + 777, np.uint8).tobytes()
    assert checksum([b"123456789"]) == 0xBB3D  # CRC-16/ARC
    plain = checksum([data[at : at + 4000] for at in range(0, len(data), 4000)])  # bytewise
    assert checksum([data]) == checksum([data[:5000], data[5000:]]) == plain


# --- what libsndfile cannot read


@pytest.mark.parametrize(
    ("name", "start", "says"),
    [
        ("a.m4a", b"\0\0\0\x20ftypM4A ", "MP4"),
        ("a.aac", b"\xff\xf1\x50\x80", "AAC"),
        ("a.webm", b"\x1aE\xdf\xa3", "WebM"),
        ("a.wma", b"0&\xb2u\x8ef\xcf\x11", "Windows Media"),
        ("a.raw", b"\1\2\3\4", "without a header"),
    ],
)
def test_other_formats_are_refused_with_the_pipe_that_works(
    run, tiny: Path, tmp_path: Path, name: str, start: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(start + np.random.default_rng(0).bytes(3000))
    result = run("encode", name, "out.edgc", "--bundle", tiny)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert f"-i {name} -f wav - | edgecodec encode - OUT.edgc" in result.stderr
    with pytest.raises(DataError, match=says if name != "a.raw" else "not an audio file"):
        find_clips([tmp_path / name], RATE)


def test_a_library_says_nothing_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "in.mp3").write_bytes(coded("mp3", tone(RATE)) + coded("mp3", tone(9000)))
    code = (
        "from edgecodec.files.audio import open_audio\n"
        "with open_audio('in.mp3') as audio: print(sum(block.shape[1] for block in audio.blocks()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{RATE + 9000}\n", "")


# --- scale and shape


def test_the_scale_of_integers_is_warned_of(codec, tmp_path: Path) -> None:
    with pytest.warns(ScaleWarning, match="divide by 32768"):
        codec.encode(tone(800) * 32768)
    with pytest.warns(ScaleWarning, match="divide by 2147483648"):
        codec.encoder_stream().push(tone(800) * np.float32(2**31))
    file = io.BytesIO()
    soundfile.write(file, tone(800) * 20_000, RATE, format="WAV", subtype="FLOAT")
    with pytest.warns(ScaleWarning, match=r"in has samples far outside .* divide by 32768"):
        read(tmp_path, file.getvalue())
    codec.encode(tone(800) * 8)  # loud, and no more


def test_a_command_warns_of_the_scale_in_one_line(tiny: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", np.tile(tone(RATE) * 20_000, 20), RATE, subtype="FLOAT")
    done = subprocess.run(
        [Path(sys.executable).parent / "edgecodec", "encode", "in.wav", "out.edgc", "-q", "1", "--bundle", tiny],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = (
        "edgecodec: in.wav has samples far outside [-1, 1], which will be clipped: integers as floats? divide by 32768"
    )
    assert [line for line in done.stderr.splitlines() if not line.startswith("seconds ")] == [said]


def test_time_in_place_of_channels_is_refused_with_advice(codec) -> None:
    for audio in (np.zeros((256, 2), np.float32), np.zeros((1, 72_000, 2), np.float32)):
        with pytest.raises(AudioError, match=r"transpose it"):
            codec.encode(audio)
    assert codec.encode(np.zeros((255, 2), np.float32)).shape[0] == 255
