"""Which runtime runs the models, decided from the settings and from what is installed."""

import sys
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, NamedTuple

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.models.runtimes.compiled_cache import CompiledCache
from detector_worker.models.runtimes.onnx_runtime import PROVIDERS, Device, OnnxRuntime, import_onnxruntime, nvidia_card
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
from detector_worker.models.runtimes.runtime import InferenceRuntime, Precision

__all__ = ["AvailableRuntime", "RuntimeChoice", "available_runtimes", "choose_runtime", "new_runtime", "runtime_here"]

RuntimeName = Literal["openvino", "onnxruntime"]
_ACCELERATORS: Final[tuple[Device, ...]] = ("cuda", "coreml")
"""Taken without being asked for, the best first. TensorRT is not: it builds each model for minutes."""


class RuntimeChoice(NamedTuple):
    """A runtime and where it computes."""

    runtime: RuntimeName
    device: Device


@dataclass(frozen=True, slots=True)
class AvailableRuntime:
    """A runtime that is installed: what it is called, and what it has here."""

    name: RuntimeName
    version: str
    devices: tuple[Device, ...]
    precisions: tuple[Precision, ...]


def new_runtime(choice: RuntimeChoice, *, threads: int, requests: int, cache_dir: Path | None) -> InferenceRuntime:
    """Make a runtime.

    Args:
        choice: Which one, by `runtime_here`.
        threads: Cores that inference may use.
        requests: Threads that will ask at one time.
        cache_dir: Where compiled models are kept; None: nowhere.
    """
    if choice.runtime == "onnxruntime":
        return OnnxRuntime(device=choice.device, threads=threads, requests=requests)
    cache = CompiledCache(cache_dir) if cache_dir is not None else None
    return OpenVINORuntime(threads=threads, requests=requests, cache=cache)


def runtime_here(
    *,
    runtime: Literal["auto", "openvino", "onnxruntime"],
    device: Literal["auto", "cpu", "cuda", "tensorrt", "coreml"],
) -> RuntimeChoice:
    """Decide what is used on this machine, by the settings.

    Args:
        runtime: ``auto``: ONNX Runtime where it has an accelerator, else OpenVINO.
        device: ``auto``: an accelerator where there is one, else the CPU.

    Raises:
        ConfigurationError: What was asked for is not there.
    """
    return choose_runtime(runtime=runtime, device=device, devices=_onnx_devices())


def choose_runtime(
    *,
    runtime: Literal["auto", "openvino", "onnxruntime"],
    device: Literal["auto", "cpu", "cuda", "tensorrt", "coreml"],
    devices: Collection[Device] | None,
) -> RuntimeChoice:
    """Decide; ``devices`` are those of ONNX Runtime, None where it is not installed. Raises as `runtime_here`."""
    accelerator = next((one for one in _ACCELERATORS if one in (devices or ())), None)
    if runtime == "openvino" or (runtime == "auto" and (device == "cpu" or (device == "auto" and accelerator is None))):
        if device not in {"auto", "cpu"}:
            mend = "Set models.runtime to onnxruntime or auto, or models.device to cpu."
            raise ConfigurationError(f"OpenVINO computes on the CPU, not on {device}", where="models.device", mend=mend)
        return RuntimeChoice("openvino", "cpu")
    if devices is None:
        mend = "Install the extra `gpu` (pip install 'detector-worker[gpu]'), or set models.runtime to openvino."
        raise ConfigurationError("ONNX Runtime is not installed", where="models.runtime", mend=mend)
    wanted: Device = (accelerator or "cpu") if device == "auto" else device
    if wanted not in devices:
        what = f"ONNX Runtime has no {wanted} here, only {', '.join(sorted(devices))}"
        mend = "Install the extra `gpu` in place of the package onnxruntime, see to the driver, or set models.device."
        raise ConfigurationError(what, where="models.device", mend=mend)
    return RuntimeChoice("onnxruntime", wanted)


def available_runtimes() -> tuple[AvailableRuntime, ...]:
    """Return what is installed here, for people to see."""
    openvino = OpenVINORuntime(threads=1, requests=1)
    found = [AvailableRuntime("openvino", openvino.version, ("cpu",), openvino.precisions)]
    if devices := _onnx_devices():
        onnx = OnnxRuntime(device="cpu", threads=1, requests=1)
        found.append(AvailableRuntime("onnxruntime", onnx.version, devices, onnx.precisions))
    return tuple(found)


def _onnx_devices() -> tuple[Device, ...] | None:
    """Return where ONNX Runtime can compute; its build says what it was made for, not whether a card is there."""
    if find_spec("onnxruntime") is None:
        return None
    has_card = nvidia_card() is not None
    if not has_card and sys.platform != "darwin":
        return ("cpu",)  # known without its import, which takes a quarter of a second
    providers = import_onnxruntime().get_available_providers()
    built_for = [device for device, wanted in PROVIDERS.items() if next(iter(wanted)) in providers]
    return tuple(device for device in built_for if device not in {"cuda", "tensorrt"} or has_card)
