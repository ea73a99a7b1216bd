"""The table of a study: six columns, in each a word and the numbers behind it. The words follow from stated rules.

Everything here is made of the rows of the CSV alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from edgecodec.evaluation import score_tables

from .rows import Number, Row

HIGH, MEDIUM, LOW, UNKNOWN = "high", "medium", "low", "–"

CAPACITY_BITS = (40.0, 15.0)  # effective bits a frame from which capacity is high, medium
USABLE_COUNTS = (4, 2)  # usable bitrates from which control is high, medium
LESS_EVEN = 1.25  # times what is usual among the variants, of gradient norms and losses
DEAD_ENTRIES = 0.1  # share of entries
SEED_SPREAD = 0.03  # of the mel distance, (largest - smallest) / mean
COST_RATIO = (1.15, 0.87)  # times the reference's from which cost is high, medium
PESQ_BEHIND = (0.05, 0.2)  # up to which quality is high, medium, beside the best at the same bits
ESTOI_BEHIND = (0.01, 0.05)
CODE_LINES = (60, 30)  # of the kind's own class, from which complexity is high, medium
NOISY_MEASURES = {"pesq_wb": "PESQ-WB", "estoi": "ESTOI", "si_sdr": "SI-SDR, dB", "dnsmos": "DNSMOS"}
SAME_BITS = 0.01  # share by which bitrates may differ and count as equal


@dataclass(frozen=True)
class Cell:
    """A word, and the numbers that it stands for."""

    word: str
    numbers: str

    def __str__(self) -> str:
        """For instance `high: 71.2 of 80 bits`."""
        return f"{self.word}: {self.numbers}"


@dataclass(frozen=True)
class Column:
    """A column: what heads it, the rule in words, and how a variant's rows are judged among all rows."""

    heading: str
    rule: str
    judge: Callable[[Sequence[Row], Sequence[Row]], Cell]


def table(rows: Sequence[Row]) -> dict[str, list[Cell]]:
    """By variant, a cell a column of `COLUMNS`."""
    variants = list(dict.fromkeys(row.variant for row in rows))
    return {
        name: [column.judge([row for row in rows if row.variant == name], rows) for column in COLUMNS]
        for name in variants
    }


def rules() -> list[str]:
    """One line a column: how the word follows from the numbers."""
    return [f"{column.heading}: {column.rule}" for column in COLUMNS]


def usable(rows: Sequence[Row]) -> list[int]:
    """Stage counts of a variant that are worth their bits: mel distance below that of every smaller count.

    The first is compared with silence. Means over seeds.
    """
    best, found = fmean(row.silent_mel for row in rows), []
    for stages in sorted({row.stages for row in rows}):
        mel = mean_at(rows, stages, "mel_distance")
        if mel is not None and mel < best:
            best = mel
            found.append(stages)
    return found


def mean_at(rows: Sequence[Row], stages: int, name: str) -> Number:
    """Mean over seeds of a number at a stage count; None where no seed has it."""
    values = [value for row in rows if row.stages == stages if (value := getattr(row, name)) is not None]
    return fmean(values) if values else None


def at_all_stages(rows: Sequence[Row]) -> list[Row]:
    """The rows of a variant at all of its stages, one a seed."""
    return [row for row in rows if row.stages == row.max_stages]


def _word(value: float, bounds: tuple[float, float]) -> str:
    """From the first bound on high, from the second on medium."""
    return HIGH if value >= bounds[0] else MEDIUM if value >= bounds[1] else LOW


def _capacity(own: Sequence[Row], everything: Sequence[Row]) -> Cell:
    whole = at_all_stages(own)
    effective = fmean(row.effective_bits for row in whole)
    return Cell(_word(effective, CAPACITY_BITS), f"{effective:.1f} of {whole[0].bits:g} bits a frame")


def _control(own: Sequence[Row], everything: Sequence[Row]) -> Cell:
    counts = usable(own)
    rates = {row.stages: row.kbps for row in own}
    ends = dict.fromkeys(f"{rates[n]:.3g}" for n in (counts[0], counts[-1])) if counts else ()
    span = f", {' to '.join(ends)} kbps" if ends else ""
    return Cell(_word(len(counts), USABLE_COUNTS), f"{len(counts)} of {own[0].max_stages} counts usable{span}")


def _stability(own: Sequence[Row], everything: Sequence[Row]) -> Cell:
    whole = at_all_stages(own)
    spread = _mean([row.gradient_spread for row in whole])
    variation = _mean([row.loss_variation for row in whole])
    dead = fmean(row.dead_entries for row in whole)
    mels = [row.mel_distance for row in whole if row.mel_distance is not None]
    seeds = (max(mels) - min(mels)) / fmean(mels) if len(mels) > 1 else None
    if spread is None or variation is None:
        return Cell(UNKNOWN, f"not trained here; {dead:.1%} of entries dead")
    failed = [
        spread > LESS_EVEN * _usual(everything, "gradient_spread"),
        variation > LESS_EVEN * _usual(everything, "loss_variation"),
        dead > DEAD_ENTRIES,
        seeds is not None and seeds > SEED_SPREAD,
    ]
    numbers = f"gradients × {spread:.2f}, losses ± {variation:.1%}, {dead:.1%} dead"
    return Cell(
        [HIGH, MEDIUM, LOW][min(sum(failed), 2)],
        numbers + (f", seeds {seeds:.1%} apart" if seeds is not None else ", one seed"),
    )


def _cost(own: Sequence[Row], everything: Sequence[Row]) -> Cell:
    row = own[0]
    times = (row.encode_ms, row.search_ms, row.decode_ms, row.cost_ratio_low, row.cost_ratio_high)
    if row.cost_ratio is None or None in times:
        return Cell(UNKNOWN, "not measured")
    return Cell(
        _word(row.cost_ratio, COST_RATIO),
        f"× {row.cost_ratio:.2f} ({row.cost_ratio_low:.2f} to {row.cost_ratio_high:.2f}); encode {row.encode_ms:.2f} "
        f"(search {row.search_ms:.2f}), decode {row.decode_ms:.2f} ms a second; {row.bundle_bytes / 1e6:.1f} MB",
    )


def _quality(own: Sequence[Row], everything: Sequence[Row]) -> Cell:
    kbps = at_all_stages(own)[0].kbps
    scores = _scores_at(own, kbps)
    best, rivals = dict(scores), 0
    for name in {row.variant for row in everything} - {own[0].variant}:
        other = _scores_at([row for row in everything if row.variant == name], kbps)
        rivals += bool(other)
        best |= {measure: max(value, best.get(measure, value)) for measure, value in other.items()}
    text = f"PESQ-WB {_digits(scores, 'pesq_wb', 2)}, ESTOI {_digits(scores, 'estoi', 3)} at {kbps:.3g} kbps"
    if not rivals or len(scores) < 2:
        return Cell(UNKNOWN, f"{text}, nothing beside it")
    behind = {measure: best[measure] - scores[measure] for measure in scores}
    words = [_within(behind["pesq_wb"], PESQ_BEHIND), _within(behind["estoi"], ESTOI_BEHIND)]
    worst = max(words, key=[HIGH, MEDIUM, LOW].index)
    return Cell(worst, f"{text}; {behind['pesq_wb']:.2f}, {behind['estoi']:.3f} behind the best of {rivals + 1}")


def _complexity(own: Sequence[Row], everything: Sequence[Row]) -> Cell:
    row = own[0]
    return Cell(_word(row.lines_own, CODE_LINES), f"{row.lines_own} lines, {row.lines_all} with all they use")


def _scores_at(rows: Sequence[Row], kbps: float) -> Mapping[str, float]:
    """PESQ-WB and ESTOI of a variant at a bitrate; none where it has no such bitrate, or it is not scored there."""
    counts = {row.stages for row in rows if abs(row.kbps - kbps) <= SAME_BITS * kbps}
    found = {name: mean_at(rows, min(counts), name) for name in ("pesq_wb", "estoi") if counts}
    return {name: value for name, value in found.items() if value is not None}


def _within(behind: float, bounds: tuple[float, float]) -> str:
    return HIGH if behind <= bounds[0] else MEDIUM if behind <= bounds[1] else LOW


def _digits(scores: Mapping[str, float], name: str, digits: int) -> str:
    return f"{scores[name]:.{digits}f}" if name in scores else UNKNOWN


def _usual(rows: Sequence[Row], name: str) -> float:
    """The median over variants of a number of their runs."""
    by_variant = {row.variant: [r for r in rows if r.variant == row.variant] for row in rows}
    means = (_mean([getattr(row, name) for row in at_all_stages(own)]) for own in by_variant.values())
    return median(value for value in means if value is not None)


def _mean(values: Sequence[Number]) -> Number:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


COLUMNS = (
    Column(
        "capacity",
        f"high from {CAPACITY_BITS[0]:g} effective bits a frame on, medium from {CAPACITY_BITS[1]:g}; the sum over "
        "stages of log2 of the perplexity of their codes",
        _capacity,
    ),
    Column(
        "bitrate control",
        f"high from {USABLE_COUNTS[0]} usable bitrates on, medium from {USABLE_COUNTS[1]}; a stage count is usable "
        "whose mel distance is below that of every smaller count (of silence, for the first)",
        _control,
    ),
    Column(
        "training stability",
        "high if none, medium if one of these fails: the 95th percentile of gradient norms as a multiple of their "
        "median (gradients ×), and the standard deviation of the losses about their trend in the last quarter of steps "
        f"(losses ±), are at most {LESS_EVEN:g} × what they are in the middle of all variants; at most "
        f"{DEAD_ENTRIES:.0%} of entries are chosen by no frame (dead); mel distances of seeds are at most "
        f"{SEED_SPREAD:.0%} apart",
        _stability,
    ),
    Column(
        "inference cost",
        f"encoding and decoding at all stages take {COST_RATIO[0]:g} × the reference or more: high; {COST_RATIO[1]:g} "
        "× or more: medium; less: low; in brackets where the ratio lies in 95 % of cases",
        _cost,
    ),
    Column(
        "perceptual quality",
        f"at the bitrate of all stages, behind the best variant that offers it: at most {PESQ_BEHIND[0]:g} PESQ-WB and "
        f"{ESTOI_BEHIND[0]:g} ESTOI: high; at most {PESQ_BEHIND[1]:g} and {ESTOI_BEHIND[1]:g}: medium; else low",
        _quality,
    ),
    Column(
        "code complexity",
        f"the class of the quantizer, without comments: high from {CODE_LINES[0]} lines on, medium from "
        f"{CODE_LINES[1]}",
        _complexity,
    ),
)


def gains(rows: Sequence[Row]) -> list[list[str]]:
    """Of studies in noise: by variant and scored stage count, how far the scores lie above those of what was heard.

    Cells with their head; none of other studies.
    """
    if not any(row.snr_db is not None for row in rows):
        return []
    cells = [["variant", "stages", "kbps", *NOISY_MEASURES.values()]]
    for name in dict.fromkeys(row.variant for row in rows):
        own = [row for row in rows if row.variant == name]
        for stages in sorted({row.stages for row in own if row.pesq_wb is not None}):
            kbps = next(row.kbps for row in own if row.stages == stages)
            cells.append([name, str(stages), f"{kbps:.3g}", *(_gain(own, stages, m) for m in NOISY_MEASURES)])
    return cells


def _gain(own: Sequence[Row], stages: int, name: str) -> str:
    after, before = mean_at(own, stages, name), mean_at(own, stages, f"noisy_{name}")
    return UNKNOWN if after is None or before is None else f"{after - before:+.3f}"


def markdown(rows: Sequence[Row]) -> str:
    """The table and its rules, in Markdown; of studies in noise also the gains over it."""
    heads = ["variant", *(column.heading for column in COLUMNS)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, cells in table(rows).items():
        lines.append(f"| {' | '.join([name, *(f'**{cell.word}**: {cell.numbers}' for cell in cells)])} |")
    lines += ["", *(f"- {rule}" for rule in rules())]
    if above := gains(rows):
        lines += [
            "",
            f"Over what was heard, speech in noise at {rows[0].snr_db:g} dB:",
            "",
            *score_tables.markdown(above),
        ]
    return "\n".join(lines)


def as_data(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows, words and rules as plain values."""
    words = {
        name: {column.heading: asdict(cell) for column, cell in zip(COLUMNS, cells, strict=True)}
        for name, cells in table(rows).items()
    }
    return {"table": words, "rules": rules(), "gains": gains(rows), "rows": [asdict(row) for row in rows]}
