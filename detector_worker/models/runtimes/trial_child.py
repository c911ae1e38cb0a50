"""What `ModelTrial` runs in its child process: each model is read, compiled and asked once by every thread."""

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Final

import numpy as np
import psutil

from detector_worker.models.runtimes.confinement import Child, run_as_child
from detector_worker.models.runtimes.runtime import CompiledModel, InferenceRuntime, Preprocessing
from detector_worker.models.runtimes.selection import RuntimeChoice, new_runtime

_WARM_UP: Final = (
    "CAg6kgEKFwoBcxIBdyIPQ29uc3RhbnRPZlNoYXBlCg8KAXgKAXcSAXkiBENvbnYSAWcqKQgEEAdCAXNKIAQAAAAAAAAAAwAA"
    "AAAAAAADAAAAAAAAAAMAAAAAAAAAWhsKAXgSFgoUCAESEAoCCAEKAggDCgIICAoCCAhiGwoBeRIWChQIARIQCgIIAQoCCAQK"
    "AggGCgIIBkIECgAQEQ=="
)
"""A convolution of 8x8 pixels as ONNX: with it all that a runtime loads late is loaded."""


def _try_models(child: Child) -> None:
    process, wanted = psutil.Process(), child.job["runtime"]
    choice, threads = RuntimeChoice(wanted["runtime"], wanted["device"]), wanted["requests"]
    runtime = new_runtime(choice, threads=wanted["threads"], requests=threads, cache_dir=None)
    kept: list[CompiledModel] = []  # or the next model would be measured in the room that the last one left
    with ThreadPoolExecutor(threads) as pool:
        Path("warm-up.onnx").write_bytes(base64.b64decode(_WARM_UP))
        kept.append(_load(runtime, pool, threads, Path("warm-up.onnx"), (8, 8)))
        child.bound_memory()
        for path, height, width in child.job["models"]:
            before_bytes = process.memory_info().rss
            kept.append(_load(runtime, pool, threads, Path(path), (height, width)))
            child.tell(memory_bytes=max(1, process.memory_info().rss - before_bytes))


def _load(
    runtime: InferenceRuntime, pool: ThreadPoolExecutor, threads: int, path: Path, input_hw: tuple[int, int]
) -> CompiledModel:
    """Compile, with pixels scaled to 0..1, since nothing here says how the archive wants them; and use all threads."""
    spec = runtime.read_spec(path, input_hw=input_hw)
    scale = 1.0 if spec.takes_bytes else 1 / 255
    compiled = runtime.compile(path, Preprocessing(scale=scale), input_hw=spec.input_hw)
    picture = np.full((*spec.input_hw, 3), 114, np.uint8)
    together = Barrier(threads)

    def ask() -> None:
        together.wait()
        compiled.infer(picture)

    for asked in [pool.submit(ask) for _ in range(threads)]:
        asked.result()
    return compiled


if __name__ == "__main__":
    run_as_child(_try_models)
