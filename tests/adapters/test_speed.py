"""The comparison of speeds (`make adapters`), with small models: what it runs, prints, and takes for wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
import speed

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def entry() -> Any:
    """A small DAC, which looks ahead, has other states than zeros and fewer stages than are asked for."""

    def original() -> Any:
        sizes = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "codebook_size": 64, "codebook_dim": 4}
        config = transformers.DacConfig(**sizes, downsampling_ratios=[4], n_codebooks=3)
        return speed.Original(transformers.DacModel(config))

    return speed.Entry("Small", original, next(e for e in speed.ENTRIES if e.name == "DAC 24 kHz").adapted)


def test_every_call_of_both_is_measured(entry: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["--quick", "--json"], [entry]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    calls = [(row["what"], row["frames"]) for row in found["rows"]]
    assert calls == [("encode", 1), ("search", 1), ("decode", 1), ("encode", 40), ("decode", 40)]
    assert all(row["ours"] > 0 and row["theirs"] > 0 for row in found["rows"])
    assert [row["audio"] for row in found["rows"]] == pytest.approx(
        [row["frames"] * 4 / 16_000 for row in found["rows"]]
    )
    check = found["checks"]["Small"]
    assert check["apart"] < 1e-3
    assert 0 < check["heard"] < 100 * check["lost_frame"]
    assert err.splitlines()[0] == "Small: making both"


def test_other_latents_are_an_error(entry: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Negative control: the graphs of other weights."""

    def other(model: Any) -> Any:
        model.encoder.conv1.weight *= 1.1
        codec = entry.adapted(model)
        model.encoder.conv1.weight /= 1.1
        return codec

    assert speed.main(["--quick", "--only", "small"], [speed.Entry("Small", entry.original, other)]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 7
    assert "not the original's latents" in err


def test_table() -> None:
    rows = [speed.Row("A", "encode", 2, 1.0, 0.25, 0.5), speed.Row("A", "search", 1, 0.5, 0.001, 0.002)]
    head, first, second = speed.table(rows)
    assert first.split() == ["A", "encode", "2", "250.00", "ms", "4.00", "×", "500.00", "ms", "2.00", "×", "0.50"]
    assert second.split() == ["A", "search", "1", "1.00", "ms", "2.00", "ms", "0.50"]
    assert len(head) == len(first) == len(second)


def test_calls_take_turns() -> None:
    order: list[str] = []
    speed.medians(lambda: order.append("a"), lambda: order.append("b"), 3)
    assert "".join(order) == "ab" * 5
