"""Layouts for language models: as transformers' MusicGen and plain loops make them, back again, and what is refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from edgecodec import BitrateError, BitstreamError
from edgecodec.code_layouts import (
    LAYOUTS,
    delayed,
    flattened,
    from_delayed,
    from_flattened,
    from_layout,
    parallel,
    to_layout,
)
from hypothesis import given
from hypothesis import strategies as st

SIZE = 1024
PICTURE = np.array([[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]])  # of the module's docstring


def looped(codes: np.ndarray, name: str, padding: int) -> np.ndarray:
    """[stages, T] by the words of the paper, one code at a time."""
    stages, frames = codes.shape
    if name == "parallel":
        return codes
    if name == "flattened":
        return np.array([codes[k, t] + k * SIZE for t in range(frames) for k in range(stages)], np.int64)
    steps = [
        [codes[k, s - k] if 0 <= s - k < frames else padding for s in range(frames + stages - 1)] for k in range(stages)
    ]
    return np.array(steps, np.int64).reshape(stages, frames + stages - 1)


def test_the_picture() -> None:
    assert delayed(PICTURE, 64).tolist() == [
        [0, 1, 2, 3, 64, 64],
        [64, 10, 11, 12, 13, 64],
        [64, 64, 20, 21, 22, 23],
    ]
    assert flattened(PICTURE, 64, offset=False).tolist() == [0, 10, 20, 1, 11, 21, 2, 12, 22, 3, 13, 23]
    assert flattened(PICTURE, 64).tolist()[:6] == [0, 74, 148, 1, 75, 149]
    assert np.array_equal(parallel(PICTURE, 64), PICTURE)


@st.composite
def some_codes(draw: Any) -> tuple[np.ndarray, int]:
    """Codes [..., stages, T] and the size of their codebooks."""
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    stages, frames, size = (
        draw(st.integers(1, 6)),
        draw(st.integers(0, 9)),
        draw(st.sampled_from([2, 256, 1024, 65536])),
    )
    kind = draw(st.sampled_from([np.int64, np.int32, np.uint16]))
    seed = draw(st.integers(0, 99))
    return np.random.default_rng(seed).integers(0, size, (*batch, stages, frames)).astype(kind), size


@given(some_codes(), st.sampled_from(LAYOUTS), st.booleans(), st.sampled_from([None, 0, 7]))
def test_there_and_back(made: tuple[np.ndarray, int], name: str, offset: bool, more: int | None) -> None:
    codes, size = made
    options = {"offset": offset, "padding": None if more is None else size + more}
    laid = to_layout(codes, name, size, **options)
    again = from_layout(laid, name, size, stages=codes.shape[-2], **options)
    assert np.array_equal(again, codes)
    most = {
        "parallel": size - 1,
        "flattened": (codes.shape[-2] if offset else 1) * size - 1,
        "delay": size + (more or 0),
    }
    assert laid.dtype == np.min_scalar_type(most[name]) and again.dtype == np.min_scalar_type(size - 1)
    for n in range(1, codes.shape[-2] + 1):
        first = to_layout(codes, name, size, stages=n, **options)
        assert np.array_equal(from_layout(first, name, size, stages=n, **options), codes[..., :n, :])


@given(st.integers(1, 5), st.integers(0, 8), st.sampled_from(LAYOUTS))
def test_as_a_plain_loop(stages: int, frames: int, name: str) -> None:
    codes = np.random.default_rng(0).integers(0, SIZE, (2, stages, frames))
    laid = to_layout(codes, name, SIZE)
    for clip, own in zip(codes, laid, strict=True):
        assert np.array_equal(own, looped(clip, name, SIZE))


@pytest.mark.parametrize(("stages", "frames"), [(4, 8), (8, 20), (1, 3)])
def test_as_transformers_delays(stages: int, frames: int) -> None:
    """Its pattern begins with one column of padding more, from which the first codes are predicted."""
    torch = pytest.importorskip("torch")
    generation = pytest.importorskip("transformers").MusicgenForCausalLM
    codes = np.random.default_rng(1).integers(0, SIZE, (2, stages, frames))
    begun = np.concatenate([np.full((2, stages, 1), SIZE), codes], axis=2)
    model = SimpleNamespace(num_codebooks=stages, config=SimpleNamespace(audio_channels=1))
    _, pattern = generation.build_delay_pattern_mask(
        model, torch.from_numpy(begun.reshape(2 * stages, -1)), pad_token_id=SIZE, max_length=frames + stages
    )
    assert np.array_equal(delayed(codes, SIZE), pattern.reshape(2, stages, -1).numpy()[:, :, 1:])


LACKING = np.array([[1, 2, 3], [4, -1, 5], [6, -1, -1]])


def test_missing_stages() -> None:
    held = parallel(LACKING, SIZE)
    assert held.dtype == np.int16 and np.array_equal(held, LACKING)
    assert np.array_equal(from_layout(held, "parallel", SIZE), LACKING)
    for name in ("flattened", "delay"):
        with pytest.raises(BitstreamError, match=rf"^the layout {name} cannot .* every frame has 1, take as many$"):
            to_layout(LACKING, name, SIZE)
        assert from_layout(to_layout(LACKING, name, SIZE, stages=1), name, SIZE, stages=1).tolist() == [[1, 2, 3]]
    for torn in ([[1], [-1], [2]], [[-1], [-1], [-1]]):
        with pytest.raises(BitstreamError, match="only stand in the last stages"):
            parallel(torn, SIZE)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, SIZE]], r"codes must lie in 0\.\.1023"),
        ([[0, -2]], r"codes must lie in 0\.\.1023"),
        (np.array([[1 << 63]], np.uint64), "codes hold 9223372036854775808, which is no code"),
        ([[0.5]], "codes must be integers, not float64"),
        ([[True]], "codes must be integers, not bool"),
        ([1, 2], r"codes must be \[..., stages, T\], not of shape \[2\]"),
        (np.zeros((0, 4), int), r"codes must be \[..., stages, T\], not of shape \[0, 4\]"),
    ],
)
def test_codes_that_are_refused(name: str, codes: Any, message: str) -> None:
    with pytest.raises(BitstreamError, match=message) as caught:
        to_layout(codes, name, SIZE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_stages_that_are_not_there(name: str) -> None:
    for stages in (0, 4, -1):
        with pytest.raises(BitrateError, match=f"have 1 to 3 stages, not {stages}"):
            to_layout(PICTURE, name, SIZE, stages=stages)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((1, 3), SIZE, r"stage 1 holds padding at step 3, where a code in 0\.\.1023 belongs"),
        ((0, 0), SIZE, r"stage 0 holds padding at step 0, where"),
        ((2, 1), 5, r"stage 2 holds 5 at step 1, where padding \(1024\) belongs"),
        ((0, 5), SIZE + 1, r"stage 0 holds 1025 at step 5, where padding"),
        ((1, 2), SIZE + 7, r"stage 1 holds 1031 at step 2, where a code"),
        ((1, 2), -1, r"stage 1 holds -1 at step 2, where a code"),
    ],
)
def test_damaged_delay_patterns(place: tuple[int, int], value: int, message: str) -> None:
    steps = delayed(PICTURE, SIZE).astype(np.int64)
    from_delayed(steps, SIZE)
    steps[place] = value
    with pytest.raises(BitstreamError, match=f"^a damaged delay pattern: {message}"):
        from_delayed(steps, SIZE)
    with pytest.raises(BitstreamError, match=message):
        from_layout(np.stack([delayed(PICTURE, SIZE), steps]), "delay", SIZE)


def test_other_sequences_that_are_refused() -> None:
    with pytest.raises(BitstreamError, match="of 3 stages has 2 steps or more, not 1"):
        from_delayed(np.full((3, 1), SIZE), SIZE)
    with pytest.raises(BitstreamError, match="of 10 codes does not divide into frames of 3 stages"):
        from_flattened(np.zeros(10, int), 3, SIZE)
    swapped = flattened(PICTURE, SIZE)
    swapped[[3, 4]] = swapped[[4, 3]]
    with pytest.raises(BitstreamError, match=r"position 3 .*, stage 0 of frame 1, must hold 0\.\.1023, not 1035"):
        from_flattened(swapped, 3, SIZE)
    with pytest.raises(BitstreamError, match=r"position 0 of .* must hold 0\.\.1023, not -1"):
        from_flattened([-1, 2], 2, SIZE, offset=False)
    with pytest.raises(BitstreamError, match="codes of 3 stages, expected 2"):
        from_layout(delayed(PICTURE, SIZE), "delay", SIZE, stages=2)
    with pytest.raises(BitrateError, match="stages must be 1 or more"):
        from_layout([1, 2], "flattened", SIZE, stages=0)
    with pytest.raises(ValueError, match="does not tell its stages"):
        from_layout(flattened(PICTURE, SIZE), "flattened", SIZE)


def test_arguments_that_are_refused() -> None:
    for call in (to_layout, from_layout):
        with pytest.raises(ValueError, match="layout must be parallel, flattened, delay, not 'coarse'"):
            call(PICTURE, "coarse", SIZE)
        for padding in (0, SIZE - 1, -1, 1 << 63):
            with pytest.raises(ValueError, match=f"padding must be 1024 or more, which is no code, not {padding}"):
                call(PICTURE, "delay", SIZE, padding=padding)
