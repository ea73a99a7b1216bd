"""`edgecodec bench` on the tiny bundle: every figure is there and makes sense; none is judged."""

import json
from pathlib import Path

from edgecodec.cli import app
from typer.testing import CliRunner

TINY = str(Path(__file__).parent / "tiny_bundle")


def test_reports_every_figure() -> None:
    result = CliRunner().invoke(app, ["bench", TINY, "--seconds", "0.5", "--json"])
    assert result.exit_code == 0, result.output
    costs = json.loads(result.stdout)
    assert costs["encode_speed"] > 0 and costs["decode_speed"] > 0
    for pace in ("hot", "paced"):
        assert 0 < costs[pace]["p50"] <= costs[pace]["p99"]
    counts = [cost["stages"] for cost in costs["stages"]]
    assert counts == sorted(set(counts)) and counts[0] == 1
    assert all(cost["frame"] > 0 and cost["block"] > 0 for cost in costs["stages"])
    assert 0 < costs["load_seconds"] < 60
    assert costs["peak_mb"] is None or costs["peak_mb"] > 10


def test_prints_units() -> None:
    result = CliRunner().invoke(app, ["bench", TINY, "--seconds", "0.2"])
    assert result.exit_code == 0, result.output
    for text in ("× real time", "hot p50", "paced p50", "µs", "import and load", "peak"):
        assert text in result.stdout


def test_bundle_that_is_not_there() -> None:
    result = CliRunner().invoke(app, ["bench", "no/such"])
    assert result.exit_code == 1
    assert result.output == "edgecodec: no/such: no such bundle folder\n"
