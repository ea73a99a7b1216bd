"""Types of configuration values, with the range that each must lie in; `config.from_dict` checks them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Decay = Annotated[float, Meta(ge=0, lt=1)]  # of a running mean: what it keeps in one step
Window = Annotated[int, Meta(ge=4)]  # samples of a spectrum's window; its hop is a quarter
