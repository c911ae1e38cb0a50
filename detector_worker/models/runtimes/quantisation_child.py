"""What `quantise` runs in its child process."""

import importlib
from pathlib import Path

import numpy as np

from detector_worker.models.runtimes.confinement import Child, run_as_child
from detector_worker.models.runtimes.model_checks import read_contents, runtime_errors
from detector_worker.models.runtimes.openvino_runtime import import_openvino
from detector_worker.models.runtimes.runtime import Preprocessing

__all__: list[str] = []


def _quantise(child: Child) -> None:
    openvino = import_openvino()
    nncf = importlib.import_module("nncf")
    preprocessing, path = Preprocessing(**child.job["preprocessing"]), Path(child.job["path"])
    pictures = np.load("../pictures.npy")
    child.bound_memory()
    with runtime_errors(path, "could not be quantised", (Exception,)):
        model = openvino.Core().read_model(*read_contents(path))
        is_nhwc = openvino.PartialShape([-1, -1, -1, 3]).relaxes(model.inputs[0].partial_shape)

        def fed(index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            planes = preprocessing.planes(pictures[index])
            return np.ascontiguousarray(planes.transpose(1, 2, 0) if is_nhwc else planes)[np.newaxis]

        quantised = nncf.quantize(
            model,
            nncf.Dataset(range(len(pictures)), fed),
            subset_size=len(pictures),
            preset=nncf.QuantizationPreset.MIXED,
        )
        openvino.save_model(quantised, "model.xml", compress_to_fp16=False)
    child.tell(made="model.xml")


if __name__ == "__main__":
    run_as_child(_quantise)
