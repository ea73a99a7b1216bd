"""`edgecodec bench --compare`: the statistics on given numbers, the report on real bundles, and a meter of energy."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from edgecodec.benchmarks.compare import FRAMES_PER_CALL, Row, Subject, compare, verdict
from edgecodec.benchmarks.energy import EnergyMeter
from edgecodec.benchmarks.matrix_limit import NUMBERS, SIDE, matrix_limit, product_graph
from edgecodec.benchmarks.pairs import LEAST_PAIRS, in_turns, median_interval, paired
from edgecodec.commands.main import app
from typer.testing import CliRunner, Result

TINY = str(Path(__file__).parent / "tiny_bundle")
WIDE = str(Path(__file__).parent / "wide_bundle")


def bench(*args: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, args)])


def test_the_interval_is_that_of_the_tables() -> None:
    """Places of the sign test at 95 %, from either end; Conover 1999, table A3."""
    places = {6: 1, 8: 1, 9: 2, 11: 2, 12: 3, 15: 4, 20: 6, 30: 10}
    for n, place in places.items():
        assert median_interval(range(1, n + 1)) == (place, n + 1 - place), n
    with pytest.raises(ValueError, match="needs 6 values or more, not 5"):
        median_interval(range(5))


@pytest.mark.parametrize("draw", ["lognormal", "standard_cauchy"])
def test_the_interval_holds_the_median_as_often_as_it_says(draw: str) -> None:
    drawn = getattr(np.random.default_rng(0), draw)(size=(4000, 20))
    median = 1.0 if draw == "lognormal" else 0.0
    held = np.mean([low <= median <= high for low, high in map(median_interval, drawn.tolist())])
    assert 0.95 <= held < 0.97  # 0.9586 in the limit


def row(work: str, ratios: np.ndarray, threads: int = 1) -> Row:
    """On a machine whose speed wanders, A takes so many times as much as B in each pair."""
    b = np.random.default_rng(1).lognormal(0, 0.5, len(ratios))
    return Row(work, threads, 1 if work == "live" else None, "processor", paired(ratios * b, b))


def test_the_verdict_in_words() -> None:
    """The interval is from the 6th to the 15th of 20 ratios, 0.005 from each other."""
    around = np.random.default_rng(0).permutation(np.arange(-10, 10) * 0.005 + 0.0025)
    rows = [row("encode", 1.31 + around), row("decode", 1.01 + around), row("live", 0.8 + around)]
    rows += [row("encode", np.ones(20), 2), row("decode", 0.96 + around, 2)]
    one, two = verdict(rows)
    assert one == (
        "1 thread: B encodes 1.31 × as fast as A (1.29 to 1.33), no difference in decoding (0.99 to 1.03), "
        "B does a live frame 0.80 × as fast as A (0.78 to 0.82)"
    )
    assert two == ("2 threads: no difference in encoding (1.00 to 1.00), B decodes 0.96 × as fast as A (0.94 to 0.98)")


def test_what_rounds_to_one_is_no_difference() -> None:
    assert (
        paired(np.full(20, 1.004), np.ones(20)).text("encodes", "encoding")
        == "no difference in encoding (1.00 to 1.00)"
    )
    assert paired(np.full(20, 1.006), np.ones(20)).differ


def test_pairs_that_others_broke_into_move_nothing() -> None:
    a = np.linspace(1.0, 1.1, 20)
    broken = a.copy()
    broken[[3, 11]] *= 50
    calm, disturbed = paired(a, a / 1.2), paired(broken, a / 1.2)
    assert disturbed.ratio == pytest.approx(calm.ratio) == pytest.approx(1.2)
    assert disturbed.high == pytest.approx(1.2)
    assert disturbed.differ


def test_runs_go_in_turns() -> None:
    order = ""

    def work(name: str, took: float) -> Callable[[], float]:
        def run() -> float:
            nonlocal order
            order += name
            return took

        return run

    found = in_turns(work("a", 3.0), work("b", 2.0), pairs=8)
    assert order == "ab" + "abba" * 4
    assert (found.a, found.b, found.ratio, found.pairs) == (3.0, 2.0, 1.5, 8)
    assert in_turns(work("a", 1.0), work("b", 1.0), patience=0.0).pairs == LEAST_PAIRS


@pytest.mark.parametrize("numbers", NUMBERS)
def test_the_product_is_one(numbers: Any) -> None:
    session = onnxruntime.InferenceSession(product_graph(numbers), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).integers(0, 9, (SIDE, SIDE)).astype(np.float32 if numbers == "fp32" else np.uint8)
    w = np.random.default_rng(1).integers(-9, 9, (SIDE, SIDE))
    assert np.array_equal(session.run(None, {"x": x})[0], x.astype(int) @ w)
    assert matrix_limit(numbers) > 1e8


def zones(folder: Path, **counters: tuple[str, int]) -> Path:
    """A folder as Linux shows RAPL: name and microjoules of each zone."""
    for zone, (name, spent) in counters.items():
        path = folder / ("intel-rapl:" + zone.removeprefix("z").replace("_", ":"))
        path.mkdir(parents=True, exist_ok=True)
        (path / "name").write_text(name + "\n")
        (path / "energy_uj").write_text(f"{spent}\n")
        (path / "max_energy_range_uj").write_text("262143328850\n")
    return folder


def test_energy_of_all_packages(tmp_path: Path) -> None:
    """Not of their parts, nor of the whole board; and past the end of a counter."""
    zones(tmp_path, z0=("package-0", 1_000_000), z1=("package-1", 262_143_000_000), z0_0=("core", 5), z2=("psys", 7))
    meter = EnergyMeter(tmp_path)
    assert meter.lacks is None
    before = meter.read()
    assert before == [1_000_000, 262_143_000_000]
    assert meter.joules_since(before) == 0
    zones(tmp_path, z0=("package-0", 3_500_000), z1=("package-1", 671_150), z0_0=("core", 10**9), z2=("psys", 10**9))
    assert meter.joules_since(before) == pytest.approx(2.5 + 1.0)


def test_energy_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EnergyMeter(tmp_path / "none").lacks == "not exposed here"
    assert EnergyMeter(zones(tmp_path / "psys", z0=("psys", 1))).lacks == "not exposed here"
    folder = zones(tmp_path / "odd", z0=("package-0", 1))
    (folder / "intel-rapl:0" / "energy_uj").write_text("?")
    assert EnergyMeter(folder).lacks == "exposed, and unreadable"
    (folder / "intel-rapl:0" / "energy_uj").write_text("1")
    read = Path.read_text

    def refused(path: Path, *args: Any, **options: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    assert EnergyMeter(folder).lacks == "exposed, and this user may not read it (intel-rapl:*/energy_uj)"


class Counting(EnergyMeter):
    """A meter whose processor takes so much more, or nothing, whenever it is read."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(zones(folder, z0=("package-0", 0)))
        self._counter, self._step = folder / "intel-rapl:0" / "energy_uj", step

    def read(self) -> list[int]:
        spent = super().read()
        if hasattr(self, "_step"):
            self._counter.write_text(str(spent[0] + self._step))
        return spent


def test_energy_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecodec.benchmarks.compare._ENERGY_SECONDS", 0.01)
    subject = Subject(TINY)
    found = compare(subject, subject, seconds=0.1, meter=Counting(tmp_path / "counts", 10**6))
    assert found.energy is not None and found.energy_note is None
    assert 0 < found.energy.low <= found.energy.ratio <= found.energy.high
    assert "energy" in found.verdict[-1]
    found = compare(subject, subject, seconds=0.1, meter=Counting(tmp_path / "stands", 0))
    assert found.energy is None and found.energy_note == "exposed, and does not count"


def test_a_bundle_beside_itself() -> None:
    result = bench(TINY, "--compare", TINY, "--seconds", 0.4, "--threads", 1, "--threads", 2, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["a"] == found["b"]
    assert (found["a"]["bundle"], found["a"]["precision"], found["a"]["stages"]) == ("tiny", "fp32", 3)
    frames = [n for n in FRAMES_PER_CALL if n <= 0.4 * 1000 / found["a"]["frame_ms"]]
    works = [("encode", None), ("decode", None), *(("live", n) for n in frames)]
    rows = [(row["threads"], row["work"], row["frames_per_call"]) for row in found["rows"]]
    clocks = {(row["threads"], row["clock"]) for row in found["rows"]}
    assert clocks == {(1, "processor" if sys.platform in ("linux", "darwin") else "wall"), (2, "wall")}
    assert rows == [(threads, *work) for threads in (1, 2) for work in works]
    parts = [(part["part"], part["frames_per_call"]) for part in found["parts"]]
    assert parts == [(part, n) for part in ("encoder", "quantizer", "decoder") for n in (1, frames[-1])]
    for row in found["rows"] + found["parts"]:
        took = row["took"]
        assert took["a"] > 0 and took["b"] > 0
        assert 0 < took["low"] <= took["ratio"] <= took["high"]
        assert took["pairs"] >= LEAST_PAIRS
    assert all(0 < part[share] < 2 for part in found["parts"] for share in ("share_a", "share_b"))
    assert all(limit > 1e8 for limit in found["matrix_limits"].values())
    [one] = [row["took"] for row in found["rows"] if (row["threads"], row["frames_per_call"]) == (1, 1)]
    assert found["streams_per_core"] == pytest.approx([1 / one["a"], 1 / one["b"]])
    assert (found["energy"] is None) == (found["energy_note"] is not None)
    assert [line.partition(":")[0] for line in found["verdict"][:2]] == ["1 thread", "2 threads"]


def test_the_report_in_words() -> None:
    result = bench(TINY, "-b", 2, "--compare-bitrate", 8, "--compare-device", "auto", "--seconds", 0.2, "--threads", 2)
    assert result.exit_code == 0, result.output
    texts = (
        "2 kbps of 1 stages",
        "8 kbps of 4 stages",
        "2 threads, encode, × real time",
        "live, 4 a packet, µs a frame",
    )
    for text in (*texts, "encoder, 1 a call", "GMAC/s in int8", "verdict      2 threads: ", "energy  "):
        assert text in result.stdout
    assert "streams" not in result.stdout  # a core has one thread


def test_more_stages_cost_more() -> None:
    result = bench("speech", "-b", 1.5, "--compare-bitrate", 12, "--seconds", 0.2, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["a"]["stages"], found["b"]["stages"]) == (2, 16)
    assert found["a"]["mmacs_per_second"] == pytest.approx({"encoder": 90, "quantizer": 147, "decoder": 111}, rel=0.01)
    encode, decode = found["rows"][:2]
    assert encode["took"]["high"] < 0.9
    assert decode["took"]["ratio"] > encode["took"]["ratio"]
    assert "B encodes 0." in found["verdict"][0]


@pytest.mark.parametrize(("other", "frame_ms"), [(WIDE, 2.0), ("speech", 13.3)])
def test_codecs_of_other_frames(other: str, frame_ms: float) -> None:
    """Longer ones, or with look-ahead and two channels: seconds of compute are for a second of audio of each."""
    found = compare(Subject(TINY), Subject(other), seconds=0.1)
    assert (found.a.frame_ms, found.b.frame_ms) == pytest.approx((2.0, frame_ms), rel=0.01)
    assert {row.work for row in found.rows} == {"encode", "decode", "live"}
    [live] = [row.took for row in found.rows if row.frames_per_call == 1]
    assert found.streams_per_core == (1 / live.a, 1 / live.b)


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--compare", "no/such"], 1, "edgecodec: no/such: no such bundle folder"),
        (["--compare-bitrate", "999"], 2, "edgecodec: tiny cannot do 999 kbps"),
        (["-b", "999"], 2, "edgecodec: tiny cannot do 999 kbps"),
        (["--compare-device", "gpu"], 2, "choose cpu, cuda,"),
        (["--threads", "1", "--threads", "2"], 2, "several go with a comparison only"),
        (["--threads", "0"], 2, "Invalid value for '--threads'"),
        (["--soak", "1s", "--compare", TINY], 2, "goes neither with a comparison"),
        (["--soak", "1s", "-b", "6"], 2, "goes neither with a comparison"),
        (["--paced", "1s", "--compare", TINY], 2, "goes with --soak"),
    ],
)
def test_usage_errors(args: list[str], code: int, text: str) -> None:
    result = bench(TINY, *args)
    assert result.exit_code == code
    assert text in result.output
    assert not result.stdout
