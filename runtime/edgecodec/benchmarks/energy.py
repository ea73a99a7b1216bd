"""Energy that the processor takes, where the system exposes it: Intel's RAPL, which AMD's processors have too.

    /sys/class/powercap/intel-rapl:0/ name                 "package-0"
                                      energy_uj            microjoules so far; begins again at 0 above
                                      max_energy_range_uj  so many
                        intel-rapl:0:0/                    a part of the package: not counted again

It counts all that runs on the machine. https://docs.kernel.org/power/powercap/powercap.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class _Package:
    counter: Path
    range_uj: int


class EnergyMeter:
    """Counts joules of all processor packages; `lacks` says why it cannot."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._packages: list[_Package] = []
        self.lacks: str | None = None
        try:
            self._packages = [
                _Package(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text()))
                for zone in sorted(folder.glob("intel-rapl:*"))
                if zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package")
            ]
            self.read()
        except PermissionError:
            self.lacks = "exposed, and this user may not read it (intel-rapl:*/energy_uj)"
        except (OSError, ValueError):
            self.lacks = "exposed, and unreadable"
        else:
            self.lacks = None if self._packages else "not exposed here"

    def read(self) -> list[int]:
        """Microjoules of each package so far."""
        return [int(package.counter.read_text()) for package in self._packages]

    def joules_since(self, before: list[int]) -> float:
        """Joules of all packages since they were read; a counter may have begun again once."""
        spent = 0
        for package, old, new in zip(self._packages, before, self.read(), strict=True):
            spent += new - old if new >= old else new - old + package.range_uj
        return spent / 1e6
