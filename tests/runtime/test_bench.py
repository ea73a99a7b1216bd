"""`edgecodec bench` on the tiny bundle: every figure is there and makes sense; none is judged."""

import json
from pathlib import Path

import pytest
from edgecodec.commands.bench import duration
from edgecodec.commands.main import app
from typer.testing import CliRunner

TINY = str(Path(__file__).parent / "tiny_bundle")


def test_reports_every_figure() -> None:
    result = CliRunner().invoke(app, ["bench", TINY, "--seconds", "0.5", "--json"])
    assert result.exit_code == 0, result.output
    costs = json.loads(result.stdout)
    assert costs["encode_speed"] > 0 and costs["decode_speed"] > 0
    for pace in ("hot", "paced"):
        assert 0 < costs[pace]["p50"] <= costs[pace]["p99"]
        assert costs[pace]["stolen"] is None or 0 <= costs[pace]["stolen"] < 1
    assert [cost["frames_per_packet"] for cost in costs["packets"]] == [2, 4, 8]
    assert all(0 < cost["p50"] <= cost["worst"] for cost in costs["packets"])
    counts = [cost["stages"] for cost in costs["stages"]]
    assert counts == sorted(set(counts)) and counts[0] == 1
    assert all(cost["frame"] > 0 and cost["block"] > 0 for cost in costs["stages"])
    assert 0 < costs["load_seconds"] < 60
    assert costs["peak_mb"] is None or costs["peak_mb"] > 10


def test_prints_units() -> None:
    result = CliRunner().invoke(app, ["bench", TINY, "-b", "4", "--seconds", "0.2"])
    assert result.exit_code == 0, result.output
    for text in (
        "1 thread, 4 kbps",
        "× real time",
        "hot p50",
        "paced p50",
        "buffering ms",
        "µs",
        "import and load",
        "peak",
    ):
        assert text in result.stdout


def test_bundle_that_is_not_there() -> None:
    result = CliRunner().invoke(app, ["bench", "no/such"])
    assert result.exit_code == 1
    assert result.output == "edgecodec: no/such: no such bundle folder\n"


def soak(*args: object) -> tuple[int, dict]:
    result = CliRunner().invoke(app, ["bench", TINY, "--json", *map(str, args)])
    return result.exit_code, json.loads(result.stdout)


def test_a_short_soak() -> None:
    code, found = soak("--soak", "4s", "--paced", "0.2s")
    assert code == 0
    assert 4 <= found["seconds"] < 4.1
    assert (found["different_codes"], found["different_audio"], found["drift"]) == (0, 0, 0)
    assert found["speed"] > 1
    assert found["worst_packet_ms"] > 0 and found["worst_compute_ms"] > 0
    assert found["memory"] is None or (found["memory"]["begin"] > 10 and found["memory"]["most"] < 20)
    assert found["paced"]["packets"] == 100
    assert 0 < found["paced"]["p50"] <= found["paced"]["p99"] <= found["paced"]["worst"]
    text = CliRunner().invoke(app, ["bench", TINY, "--soak", "1s", "--paced", "0.1s"]).stdout
    for words in ("0:00:01 of audio", "as offline   yes", "drift 0 samples", "worst packet", "MB at the end", "late"):
        assert words in text


def test_a_soak_finds_what_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecodec import DecoderStream, EncoderStream
    from edgecodec.samples import as_audio

    push = EncoderStream.push
    monkeypatch.setattr(EncoderStream, "push", lambda self, block: push(self, 0.3 * as_audio(block)))
    code, found = soak("--soak", "1s")
    assert code == 1
    assert found["different_codes"] > 100 and found["different_audio"] > 100
    monkeypatch.undo()
    decode = DecoderStream.push
    monkeypatch.setattr(
        DecoderStream,
        "push",
        lambda self, packet: decode(self, packet)[: -16 if packet.sequence == 5 else None],
    )
    code, found = soak("--soak", "1s")
    assert code == 1
    assert found["drift"] == -16


def test_growth_is_seen() -> None:
    from edgecodec.benchmarks.soak import _growth

    flat = _growth([(t, 500.0 if t < 60 else 100.0) for t in range(0, 7200, 10)])
    assert (flat.begin, flat.end, flat.most) == (100, 100, 0)
    assert abs(flat.slope) < 1e-9
    rising = _growth([(t, 100 + t / 3600) for t in range(0, 7200, 10)])
    assert abs(rising.slope - 1) < 1e-6
    assert 1.9 < rising.most < 2


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("24h", 86_400), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("args", [["--soak", "soon"], ["--soak", "-1s"], ["--soak", "0s"], ["--paced", "9s"]])
def test_soak_usage_errors(args: list[str]) -> None:
    assert CliRunner().invoke(app, ["bench", TINY, *args]).exit_code == 2
