"""What `convert_pt` runs in its child process: here, and nowhere else, a pickle is loaded."""

import importlib
import shutil

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.runtimes.confinement import Child, run_as_child

__all__: list[str] = []


def _convert(child: Child) -> None:
    shutil.copyfile(child.job["path"], "model.pt")
    ultralytics = importlib.import_module("ultralytics")
    importlib.import_module("onnx")
    child.bound_memory()
    try:
        ultralytics.YOLO("model.pt").export(format="onnx", dynamic=True, simplify=False, opset=17, device="cpu")
    except Exception as exc:  # the file's own code raised it: anything may come
        what = f"The .pt file could not be converted: {type(exc).__name__}: {exc}"
        raise ModelLoadError(what[:300], where="", mend="Export it to ONNX where it was trained.") from exc
    child.tell(made="model.onnx")


if __name__ == "__main__":
    run_as_child(_convert)
