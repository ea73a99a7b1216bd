"""Devices, and the providers of onnxruntime behind them: which there are here, and what each is asked for.

    device      provider                     graphs              comes with
    cpu         CPUExecutionProvider         all                 onnxruntime
    cuda        CUDAExecutionProvider        all                 onnxruntime-gpu
    openvino    OpenVINOExecutionProvider    encoder, decoder    onnxruntime-openvino
    coreml      CoreMLExecutionProvider      encoder, decoder    onnxruntime, on macOS
    directml    DmlExecutionProvider         encoder, decoder    onnxruntime-directml, on Windows
    xnnpack     XnnpackExecutionProvider     encoder, decoder    an onnxruntime built with it
    webgpu      WebGpuExecutionProvider      encoder, decoder    an onnxruntime built with it

The two quantizer graphs choose codes: what rounds otherwise there changes the format. Some providers also cannot run
them: OpenVINO refuses their branches, XNNPACK multiplies wrongly where the number of rows is free (onnxruntime #31153,
#28541). They are a twentieth of the work, and stay on the CPU.

CUDA needs onnxruntime-gpu. It fills the same folder as onnxruntime, which edgecodec itself asks for, and the one that
was installed last wins; so do the other wheels. What works:

    pip install 'edgecodec[gpu]'
    pip install --force-reinstall --no-deps onnxruntime-gpu

onnxruntime is imported when the first session is made, so that `import edgecodec` stays light.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

from .errors import DeviceError
from .manifest import GRAPHS

Device = Literal["cpu", "cuda", "openvino", "coreml", "directml", "xnnpack", "webgpu", "auto"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_NETWORKS = ("encoder", "decoder")
_REINSTALL = "pip install --force-reinstall --no-deps"


@dataclass(frozen=True)
class Provider:
    """One provider of onnxruntime: its name there, what brings it, the options that codes need, the graphs it runs."""

    name: str
    source: str
    options: dict[str, str] = field(default_factory=dict)
    graphs: tuple[str, ...] = _NETWORKS
    plans_memory: bool = True  # whether it bears onnxruntime's memory patterns
    threads: str = ""  # the option for its threads, where it has its own

    def chain(self, graph: str, threads: int) -> list[Any]:
        """The providers to ask for, for one graph: what this one does not take goes to the CPU."""
        if self.name == _CPU or graph not in self.graphs:
            return [_CPU]
        return [(self.name, self.options | ({self.threads: str(threads)} if self.threads else {})), _CPU]


PROVIDERS: dict[Device, Provider] = {
    "cpu": Provider(_CPU, f"{_REINSTALL} onnxruntime", graphs=GRAPHS),
    # An exhaustive search would time every new length; TF32 would change codes.
    "cuda": Provider(
        _CUDA,
        f"pip install 'edgecodec[gpu]', then {_REINSTALL} onnxruntime-gpu",
        {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"},
        GRAPHS,
    ),
    # Without it, processors that have bfloat16 compute in that.
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        f"{_REINSTALL} onnxruntime-openvino, and pip install openvino where that is asked for",
        {"device_type": "CPU", "precision": "ACCURACY"},
        threads="num_of_threads",
    ),
    "coreml": Provider(
        "CoreMLExecutionProvider", "onnxruntime has it on macOS and iOS only", {"ModelFormat": "MLProgram"}
    ),
    "directml": Provider("DmlExecutionProvider", f"{_REINSTALL} onnxruntime-directml, on Windows", plans_memory=False),
    "xnnpack": Provider(
        "XnnpackExecutionProvider",
        "no wheel has it: build onnxruntime with --use_xnnpack",
        threads="intra_op_num_threads",
    ),
    "webgpu": Provider("WebGpuExecutionProvider", "no wheel has it built in: build onnxruntime with --use_webgpu"),
}


def choose(device: str) -> Device:
    """The device that is meant, which this onnxruntime has; `auto`: CUDA where there is one, else the CPU.

    Raises:
        DeviceError: an unknown device, or one that this onnxruntime has not; the message says what brings it.
    """
    if device == "cpu":
        return "cpu"
    known = next((name for name in PROVIDERS if name == device), None)
    if known is None and device != "auto":
        raise DeviceError(f"unknown device {device!r}: choose {', '.join(PROVIDERS)} or auto")
    available = onnxruntime_here().get_available_providers()
    if known is None:
        return "cuda" if _CUDA in available else "cpu"
    provider = PROVIDERS[known]
    if provider.name in available:
        return known
    if device == "cuda" and _is_installed("onnxruntime-gpu"):
        raise DeviceError(
            f"CUDA was asked for, but onnxruntime lies over onnxruntime-gpu: {_REINSTALL} onnxruntime-gpu"
        )
    what = "CUDA" if device == "cuda" else provider.name
    raise DeviceError(f"{what} was asked for, but this onnxruntime has only {', '.join(available)}: {provider.source}")


def onnxruntime_here() -> Any:
    """The module onnxruntime.

    Raises:
        DeviceError: it is not complete.
    """
    import onnxruntime

    if not hasattr(onnxruntime, "InferenceSession"):  # one of two packages was uninstalled, with files of both
        package = "onnxruntime-gpu" if _is_installed("onnxruntime-gpu") else "onnxruntime"
        raise DeviceError(f"onnxruntime is not complete: {_REINSTALL} {package}")
    return onnxruntime


def nodes_taken(session: Any, provider: str) -> int | None:
    """Nodes of a session's graph that a provider runs; None where this onnxruntime does not tell (before 1.24)."""
    try:
        subgraphs = session.get_provider_graph_assignment_info()
    except Exception:  # no such method, or it was not recorded
        return None
    return sum(len(part.get_nodes()) for part in subgraphs if part.ep_name == provider)


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
