"""Whether a device gives a bundle's codes: its golden vectors decide, once on every machine.

What they said is remembered in the user's cache folder, for this bundle, this onnxruntime, this provider and its
options, and this machine: where one of them is another, they are asked again. The file is a help and no more: one that
cannot be read or written changes no answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from .durable import new_file
from .errors import DeviceError
from .golden import LEAST_EQUAL_CODES, MOST_DECODED_ERROR, Coder, GoldenResult, verify
from .providers import PROVIDERS, Device, onnxruntime_here
from .remembered import cache_folder

MOST_VERDICTS, MOST_BYTES = 64, 1 << 16  # remembered; of the file that is read


class OnDevice(Coder, Protocol):
    """A codec that runs somewhere."""

    @property
    def device(self) -> Device:
        """The device, as `Codec.device`."""


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The worst of all stage counts: the fraction of equal codes, and the largest difference of decoded audio."""

    equal_codes: Annotated[float, msgspec.Meta(ge=0, le=1)]
    decoded_error: Annotated[float, msgspec.Meta(ge=0)]
    coded_equal: bool

    @staticmethod
    def of(results: list[GoldenResult]) -> Verdict:
        """The verdict of golden vectors."""
        return Verdict(
            min(result.equal_codes for result in results),
            max(result.decoded_error for result in results),
            all(result.coded_equal for result in results),
        )

    @property
    def passed(self) -> bool:
        """Whether the device gives this bundle's codes."""
        return GoldenResult(0, self.equal_codes, self.decoded_error, self.coded_equal).passed

    def __str__(self) -> str:
        coded = "" if self.coded_equal else ", and codes become other bytes"
        return (
            f"{self.equal_codes:.2%} of the golden codes are equal ({LEAST_EQUAL_CODES:.0%} must be), "
            f"and decoded audio differs by {self.decoded_error:.1e} ({MOST_DECODED_ERROR:.0e} may be){coded}"
        )


def require_agreement(codec: OnDevice) -> None:
    """Refuse a device other than the CPU that does not give the codes of the codec's bundle.

    Raises:
        DeviceError: what was measured. BundleError: golden vectors that are missing or altered.
    """
    if codec.device == "cpu":
        return
    verdict = _read().get(_key(codec))
    if verdict is None:
        verdict = Verdict.of(measure(codec))
    if not verdict.passed:
        raise DeviceError(f"{codec.device} is refused, as it does not give the bundle's codes: {verdict}")


def measure(codec: OnDevice) -> list[GoldenResult]:
    """Ask the golden vectors, whatever is remembered, and remember what they say."""
    results = verify(codec)
    if codec.device != "cpu":
        _remember(_key(codec), Verdict.of(results))
    return results


def cache_file() -> Path | None:
    """Where verdicts are remembered; None where there is no such place."""
    folder = cache_folder()
    return None if folder is None else folder / "verdicts.json"


def _key(codec: OnDevice) -> str:
    """All that a verdict depends on, as a digest. The manifest holds the digests of the graphs and golden vectors."""
    provider = PROVIDERS[codec.device]
    what = [codec.bundle.manifest.to_json(), onnxruntime_here().__version__, provider.name, provider.options]
    where = [platform.node(), platform.platform(), platform.machine(), platform.processor(), os.cpu_count()]
    return hashlib.sha256(json.dumps([what, where, _versions()]).encode()).hexdigest()


def _versions() -> list[str]:
    """Of what providers bring beside onnxruntime."""
    found = []
    for package in ("openvino",):
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    return found


def _read() -> dict[str, Verdict]:
    """What is remembered; nothing where the file is missing, too long, or says what it cannot."""
    path = cache_file()
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        return msgspec.json.decode(data, type=dict[str, Verdict]) if len(data) <= MOST_BYTES else {}
    except (OSError, ValueError):
        return {}


def _remember(key: str, verdict: Verdict) -> None:
    """Write the verdict behind the others, the oldest of which go."""
    others = {name: old for name, old in _read().items() if name != key}
    kept = dict([*others.items(), (key, verdict)][-MOST_VERDICTS:])
    path = cache_file()
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with new_file(path) as temporary:
            temporary.write_bytes(msgspec.json.encode(kept))
