"""What this machine has and gives with a bundle, and what is known to go wrong: for a bug report, or before one."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from ..codec import Codec, load, load_unproven
from ..errors import DeviceError, EdgecodecError
from ..live.devices import list_devices
from ..live.fitness import Fitness, measure_fitness
from ..live.priority import realtime_priority
from ..providers import PROVIDERS, Device
from ..verdicts import Verdict as Agreement
from ..verdicts import measure

_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")  # in one folder
_PACKAGES = ("edgecodec", *_WHEELS, "numpy", "soundfile", "sounddevice", "soxr", "typer")
_DEVICES: dict[str, Device] = {provider.name: device for device, provider in PROVIDERS.items()}
_USUAL = ("cpu", "cuda")  # what a codec runs on that was asked for no other: it is a fault where one does not work
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "fma", "f16c", "asimd", "asimddp", "i8mm", "sve")
_EXAMPLE_STAGES = 8


@dataclass(frozen=True)
class Verdict:
    """Whether a provider of onnxruntime gives the golden codes."""

    provider: str
    passed: bool | None  # None where edgecodec does not use it
    text: str
    usual: bool = False  # whether this machine is broken where it fails


@dataclass
class Diagnosis:
    """All that was found; `faults` are for people, each with its cure."""

    versions: dict[str, str]
    machine: dict[str, str]
    providers: list[Verdict] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    speed: Fitness | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether the codec does not run here as it should."""
        return not self.providers or any(verdict.usual and not verdict.passed for verdict in self.providers)

    def lines(self) -> list[str]:
        """The report, to be pasted."""
        found = [f"{name:<16}{text}" for name, text in (self.versions | self.machine).items()]
        found += [f"{verdict.provider:<26}{verdict.text}" for verdict in self.providers]
        found += self.devices
        if self.speed is not None:
            found.append(_speed_text(self.speed))
        return found + ([f"FAULT           {fault}" for fault in self.faults] or ["no fault found"])


def examine(bundle: str) -> Diagnosis:
    """Look at versions, processor, providers, devices and speed; nothing that fails ends it."""
    found, available = Diagnosis(_versions(), _machine()), _available()
    _known_faults(found)
    if not available:
        found.faults.append("onnxruntime is not complete: pip install --force-reinstall onnxruntime")
    for provider, device in available.items():
        found.providers.append(_verdict(found, bundle, provider, device))
    found.devices = _devices()
    if any(verdict.passed for verdict in found.providers):
        _measure(found, load(bundle))
    return found


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _machine() -> dict[str, str]:
    machine = {"system": platform.platform(), "processor": platform.machine(), "cores": str(os.cpu_count())}
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return machine
    facts = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    by_name = {name.strip(): value.strip() for name, value in facts.items()}
    flags = (by_name.get("flags") or by_name.get("Features") or "").split()
    machine["model"] = by_name.get("model name", "")
    machine["features"] = " ".join(name for name in _FEATURES if name in flags)
    return {name: value for name, value in machine.items() if value}


def _available() -> dict[str, Device | None]:
    try:
        import onnxruntime

        return {name: _DEVICES.get(name) for name in onnxruntime.get_available_providers()}
    except (ImportError, AttributeError):
        return {}


def _verdict(found: Diagnosis, bundle: str, provider: str, device: Device | None) -> Verdict:
    if device is None:
        return Verdict(provider, None, "is there, and not used")
    usual = device in _USUAL
    try:
        results = measure(load_unproven(bundle, device=device))
    except EdgecodecError as error:
        if usual:
            found.faults.append(str(error))
        return Verdict(provider, False, str(error), usual)
    agreement = Agreement.of(results)
    if agreement.passed:
        text = f"passes: {agreement.equal_codes:.2%} of the golden codes at least"
        return Verdict(provider, True, text if device == "cpu" else f"{text} (--device {device})", usual)
    if usual:
        found.faults.append(f"{provider} does not give the codes of {bundle}: do not use it, and report this")
    return Verdict(provider, False, f"FAILS, so that --device {device} is refused: {agreement}", usual)


def _devices() -> list[str]:
    """Not a fault where there are none: files and pipes need none."""
    try:
        devices = list_devices()
    except DeviceError as error:
        return [f"{'sound':<16}{error}"]
    inputs, outputs = (sum(bool(device.channels(kind)) for device in devices) for kind in ("input", "output"))
    return [f"{'sound':<16}{inputs} inputs, {outputs} outputs (edgecodec devices)"]


def _measure(found: Diagnosis, codec: Codec) -> None:
    with realtime_priority():
        found.speed = measure_fitness(codec, min(_EXAMPLE_STAGES, codec.max_stages))
    complaint = found.speed.complaint()
    if complaint is not None:
        found.faults.append(complaint)


def _speed_text(speed: Fitness) -> str:
    took = speed.encode_ms + speed.decode_ms
    share = took / speed.frame_ms
    words = "real time" if share < 1 else "NOT real time"
    return f"{'speed':<16}{words}: a stream takes {share:.0%} of a core ({took:.1f} of {speed.frame_ms:.1f} ms a frame)"


def _known_faults(found: Diagnosis) -> None:
    wheels = [name for name in _WHEELS if name in found.versions]
    if len(wheels) > 1:
        found.faults.append(
            f"{' and '.join(wheels)} lie over each other: pip uninstall {' '.join(wheels)}, then install one of them"
        )
    if os.environ.get("ORT_DISABLE_TELEMETRY") not in (None, "1"):
        found.faults.append("onnxruntime's telemetry is on: unset ORT_DISABLE_TELEMETRY, or set it to 1")
