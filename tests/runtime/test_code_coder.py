"""Codes to bytes and back: the range coder, models in whole numbers, frames of different stage counts."""

import hashlib
import os
import subprocess
import sys
from array import array

import numpy as np
import pytest
from edgecodec.code_coder import Body, CodeCoder
from edgecodec.entropy_model import EntropyModel, Predictor, read_entropy_model
from edgecodec.errors import BundleError
from edgecodec.even_coder import decode_even, encode_even
from edgecodec.frequencies import tables
from edgecodec.layout import PLAIN, Layout
from edgecodec.range_coder import TOTAL, RangeDecoder, RangeEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def random_arrays(stages: int, entries: int, seed: int, following: int = 2) -> dict[str, NDArray]:
    """The arrays of a model that was never trained: sharp, and wrong."""
    rng = np.random.default_rng(seed)
    width, hidden, query, before, after = 4, 6, 3, 2, 1
    members = -(-entries // (1 << (entries - 1).bit_length() // 2))
    groups = -(-entries // members)
    sizes = {
        "hidden": ((1 + before + after) * width, hidden),
        "group": (hidden, groups),
        "query": (hidden, query),
        "member": (groups * members, query),
    }
    arrays: dict[str, NDArray] = {
        "reach": np.array([before, after, min(following, stages)], np.uint8),
        "order": np.stack([rng.permutation(entries) for _ in range(stages)]).astype(np.uint16),
        "vectors": rng.integers(-127, 128, (stages, entries, width)).astype(np.int8),
    }
    for name, (first, second) in sizes.items():
        out = first if name == "member" else second
        arrays[f"{name}_weight"] = rng.integers(-127, 128, (stages, first, second)).astype(np.int8)
        arrays[f"{name}_bias"] = rng.integers(-1000, 1000, (stages, out)).astype(np.int32)
        arrays[f"{name}_shift"] = np.full(stages, 8, np.uint8)
    return arrays


def npz(arrays: dict[str, NDArray]) -> bytes:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def random_codes(layout: Layout, streams: int, stages: int, frames: int, entries: int, mixed: bool, seed: int) -> Ints:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, entries, (streams, layout.lines(stages), frames))
    codes[:, : layout.side] = rng.integers(0, 256, (streams, layout.side, frames))
    counts = np.full((streams, frames), stages)
    if mixed:
        counts = rng.integers(1, stages + 1, (streams, frames))
        counts.flat[-1] = stages
    return layout.cut(codes, counts)


@settings(max_examples=60, deadline=None)
@given(
    widths=st.sampled_from([(), (1, 2, 4), (3, 3)]),
    side=st.integers(0, 2),
    entries=st.sampled_from([2, 3, 9, 16, 100, 1024]),
    streams=st.integers(1, 3),
    frames=st.integers(1, 9),
    mixed=st.booleans(),
    following=st.integers(-1, 3),
    seed=st.integers(0, 1000),
)
def test_codes_come_back_whole_and_cut(
    widths: tuple[int, ...],
    side: int,
    entries: int,
    streams: int,
    frames: int,
    mixed: bool,
    following: int,
    seed: int,
) -> None:
    """Every layout, with a model and without one; a cut behind any stage keeps the stages before it."""
    layout, most = Layout(side, widths), len(widths) or 5
    stages = 1 + seed % most
    codes = random_codes(layout, streams, stages, frames, entries, mixed, seed)
    known = following >= 0
    model = EntropyModel(random_arrays(most, entries, seed, following)) if known else Predictor(entries)
    coder = CodeCoder(layout, model, streams)
    coded = coder.encode(codes)
    is_mixed = bool((layout.counts(codes) < stages).any())
    assert np.array_equal(coder.decode([coded.data], stages, frames, mixed=is_mixed)[0], codes)
    assert list(coded.ends) == sorted(coded.ends) and coded.ends[-1] <= len(coded.data)
    for n in range(1, stages + 1):
        shorter = coder.decode([coded.data[: coded.ends[n - 1]]], stages, frames, mixed=is_mixed)[0]
        assert np.array_equal(shorter[:, : layout.lines(n)], codes[:, : layout.lines(n)])
    if not is_mixed:
        ideal = coder.bits(codes).sum() / 8 + side * streams * frames
        assert ideal - 0.01 <= len(coded.data) + 1 and len(coded.data) <= 1.002 * ideal + 1.5


@settings(max_examples=100, deadline=None)
@given(
    widths=st.sampled_from([(), (1, 2, 4), (3, 3)]),
    side=st.integers(0, 2),
    bits=st.integers(1, 16),
    streams=st.integers(1, 3),
    frames=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_even_codes_are_packed_to_the_bytes_of_the_range_coder(
    widths: tuple[int, ...], side: int, bits: int, streams: int, frames: int, seed: int
) -> None:
    """Also where bytes at the end are zero, which are left out; and cut behind any stage."""
    layout, stages = Layout(side, widths), 1 + seed % 2
    codes = random_codes(layout, streams, stages, frames, 1 << bits, False, seed)
    codes[:, -1, frames // 2 :] = seed % 3 and codes[:, -1, frames // 2 :]
    coder = CodeCoder(layout, Predictor(1 << bits), streams)
    coded = coder.encode(codes)
    assert encode_even(layout, bits, codes) == coded
    for data in (coded.data, *(coded.data[:end] for end in coded.ends), bytes(range(5))):
        again = decode_even(layout, bits, data, streams, stages, frames)
        assert np.array_equal(again, coder.decode([data], stages, frames, mixed=False)[0])


def test_bodies_of_any_shape_are_decoded_in_one_go() -> None:
    coder = CodeCoder(Layout(1, (1, 2, 4)), EntropyModel(random_arrays(3, 100, 0)), 2)
    shapes = [(3, 7, True), (1, 7, False), (2, 3, True), (3, 1, False), (2, 9, False)]
    clips = [random_codes(coder.layout, 2, n, frames, 100, mixed, n) for n, frames, mixed in shapes]
    coded = [coder.encode(clip, most=3) for clip in clips]
    bodies = [
        Body(own.data, n, frames, bool((coder.layout.counts(clip) < n).any()))
        for own, clip, (n, frames, _) in zip(coded, clips, shapes, strict=True)
    ]
    for again, clip in zip(coder.decode_all(bodies, 3), clips, strict=True):
        assert np.array_equal(again, clip)


def test_several_clips_are_coded_as_one_each() -> None:
    coder = CodeCoder(PLAIN, EntropyModel(random_arrays(4, 100, 0)), 2)
    clips = [random_codes(PLAIN, 2, 4, 7, 100, True, seed) for seed in range(5)]
    clips.append(PLAIN.cut(clips[0], np.full((2, 7), 2)))
    apart = [coder.encode(clip[:, : PLAIN.counts(clip).max()], most=4) for clip in clips]
    assert coder.encode_all(np.stack(clips), most=4) == apart
    bodies = [coder.encode(clip).data for clip in clips[:5]]
    clips = clips[:5]
    assert np.array_equal(coder.decode(bodies, 4, 7, mixed=True), np.stack(clips))


@pytest.mark.parametrize("layout", [PLAIN, Layout(1, (1, 1, 2, 2, 4))])
def test_how_many_codes_go_together_changes_nothing(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several stages in one go, one, or a part of one, where the first ones follow themselves."""
    coder = CodeCoder(layout, EntropyModel(random_arrays(5, 100, 0, 3)), 2)
    codes = random_codes(layout, 2, 5, 9, 100, True, 0)
    told, bits, coded = coder.intervals(codes), coder.bits(codes), coder.encode(codes)
    for together in (1, 7, 40, 10_000):
        monkeypatch.setattr("edgecodec.code_coder._TOGETHER", together)
        assert np.array_equal(coder.intervals(codes), told) and np.array_equal(coder.bits(codes), bits)
        assert coder.encode(codes) == coded
        assert np.array_equal(coder.decode([coded.data], 5, 9, mixed=True)[0], codes)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_give_codes_in_range(data: bytes, mixed: bool) -> None:
    coder = CodeCoder(Layout(1, (1, 2)), EntropyModel(random_arrays(2, 9, 0)), 1)
    codes = coder.decode([data], 2, 4, mixed=mixed)
    assert codes.shape == (1, 1, 4, 4) and codes[:, :, 1:].max() < 9 and codes.min() >= -1
    assert coder.layout.counts(codes[0]).min() >= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), max_size=60), st.integers(0, 60))
def test_the_range_coder_takes_what_the_symbols_weigh(symbols: list[tuple[int, int]], cut: int) -> None:
    """Alphabets of one to five symbols, from even to 1 in 32,768, and a cut anywhere."""
    flat, chosen, starts, own = array("i"), [], [], []
    for wanted, size in symbols:  # symbols that do not occur fill the tables up to five
        shares = [1] * (size - 1) + [TOTAL - size + 1] + [0] * (5 - size)
        table = [sum(shares[:i]) for i in range(6)]
        flat.extend(table)
        chosen.append(wanted % size)
        starts.append(table[chosen[-1]])
        own.append(table[chosen[-1] + 1] - starts[-1])
    cut = min(cut, len(symbols))
    coder = RangeEncoder()
    coder.encode(starts[:cut], own[:cut])
    coder.mark()
    coder.encode(starts[cut:], own[cut:])
    data, (end,) = coder.finish()
    assert RangeDecoder(data).decode(flat, 6, 0, len(chosen)) == chosen
    decoder = RangeDecoder(data[:end])
    half = decoder.decode(flat, 6, 0, cut // 2)
    assert half + decoder.decode(flat, 6, cut // 2, cut - cut // 2) == chosen[:cut]
    assert 8 * len(data) <= sum(15 - np.log2(share) for share in own) + 0.02 * len(own) + 9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-5000, 5000), min_size=1, max_size=40), st.integers(1, 40))
def test_frequencies_are_whole_and_none_is_lost(logits: list[int], size: int) -> None:
    row = np.array([logits], np.float32)
    found = np.diff(tables(row, np.array([min(size, len(logits))])))[0]
    size = min(size, len(logits))
    assert found.sum() == TOTAL and found[:size].min() >= 1 and not found[size:].any()
    likelier = row[0, :size, None] > row[0, :size]
    assert (found[:size, None] >= found[:size])[likelier].all()
    whole = tables(row)[0]  # as Python's integers have it; of many rows it is numpy
    assert np.diff(whole).min() >= 1 and (tables(np.repeat(row, 9, axis=0)) == whole).all()


def test_sums_are_the_same_in_any_order() -> None:
    """What makes the bits of every machine the same: float32 sums of whole numbers below 2**24 are exact."""
    arrays = random_arrays(3, 64, 1)
    model = EntropyModel(arrays)
    rng = np.random.default_rng(0)
    context = rng.integers(-255, 256, (500, arrays["hidden_weight"].shape[1])).astype(np.float32)
    weight = arrays["hidden_weight"][0].astype(np.int64)
    total = context.astype(np.int64) @ weight + arrays["hidden_bias"][0]
    expected = np.clip(total >> int(arrays["hidden_shift"][0]), 0, 255)
    assert np.array_equal(model.hidden([(0, slice(None))], context), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("order"), "order is missing"),
        (lambda a: a.update(order=a["order"].astype(np.int16)), "order is int16, not uint16"),
        (lambda a: a["order"].__setitem__((0, 0), a["order"][0, 1]), "order names an entry twice"),
        (lambda a: a.update(reach=np.array([9, 1, 1], np.uint8)), "reach is"),
        (lambda a: a.update(vectors=a["vectors"][:, :, :2]), "hidden_weight is .* expected"),
        (lambda a: a.update(group_bias=a["group_bias"] + np.int32(1 << 24)), r"group: sums may reach 2\*\*24"),
        (lambda a: a.update(member_bias=a["member_bias"] + np.int32(1 << 24)), r"member: sums may reach 2\*\*24"),
        (lambda a: a.update(hidden_shift=np.full(3, 40, np.uint8)), "hidden_shift"),
        (lambda a: a.update(group_weight=a["group_weight"][:, :, :3], group_bias=a["group_bias"][:, :3]), "member"),
    ],
)
def test_models_that_contradict_themselves_are_refused(change, message: str) -> None:
    arrays = random_arrays(3, 64, 0)
    read_entropy_model(npz(arrays), 3, 64)
    change(arrays)
    with pytest.raises(BundleError, match=message):
        read_entropy_model(npz(arrays), 3, 64)
    with pytest.raises(BundleError):
        read_entropy_model(npz(random_arrays(3, 64, 0)), 3, 65)
    with pytest.raises(BundleError):
        read_entropy_model(npz(random_arrays(3, 64, 0))[:-30], 3, 64)


SAME_BYTES = """
import hashlib, importlib.util, sys
spec = importlib.util.spec_from_file_location("here", sys.argv[1])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
coder = here.CodeCoder(here.PLAIN, here.EntropyModel(here.random_arrays(6, 100, 3)), 2)
codes = here.random_codes(here.PLAIN, 2, 6, 40, 100, True, 5)
print(hashlib.sha256(coder.encode(codes).data).hexdigest())
"""


def test_every_processor_writes_the_same_bytes() -> None:
    """The kernels of old and new processors sum in other orders, and so do several threads."""
    coder = CodeCoder(PLAIN, EntropyModel(random_arrays(6, 100, 3)), 2)
    codes = random_codes(PLAIN, 2, 6, 40, 100, True, 5)
    expected = hashlib.sha256(coder.encode(codes).data).hexdigest()
    for changes in ({"OPENBLAS_CORETYPE": "Prescott"}, {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2"}):
        command = [sys.executable, "-c", SAME_BYTES, __file__]
        found = subprocess.run(command, env=os.environ | changes, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == expected
