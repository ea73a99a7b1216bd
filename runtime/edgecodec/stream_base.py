"""What all streams are."""

from __future__ import annotations

from typing import NoReturn


class Stream:
    """A stream: what it has heard lives in it, and in the graphs that it is bound to."""

    def __reduce__(self) -> NoReturn:
        """Refused.

        Raises:
            TypeError: always; it says what to do.
        """
        raise TypeError(f"{type(self).__name__} cannot be pickled or copied: pickle the codec, and make a stream of it")
