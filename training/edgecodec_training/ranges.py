"""Types of configuration values, with the range that each must lie in; `config.from_dict` checks them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

MOST = 1 << 40  # no number of a configuration is larger, by far; what follows from it stays a number
WIDEST, DEEPEST = 1 << 16, 512  # sizes and repetitions of a network: how many weights there are is told beforehand

Count = Annotated[int, Meta(ge=1, le=MOST)]
Natural = Annotated[int, Meta(ge=0, le=MOST)]
Width = Annotated[int, Meta(ge=1, le=WIDEST)]
Depth = Annotated[int, Meta(ge=0, le=DEEPEST)]
Depths = Annotated[int, Meta(ge=1, le=DEEPEST)]  # at least one
Positive = Annotated[float, Meta(gt=0, le=1e12)]
NotNegative = Annotated[float, Meta(ge=0, le=1e12)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Decibels = Annotated[float, Meta(ge=-200, le=200)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Decay = Annotated[float, Meta(ge=0, lt=1)]  # of a running mean: what it keeps in one step
Window = Annotated[int, Meta(ge=4, le=WIDEST)]  # samples of a spectrum's window; its hop is a quarter
