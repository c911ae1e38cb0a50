"""Other people's formats to ours: a PyTorch file to ONNX, and ONNX to OpenVINO's IR.

A ``.pt`` file is a program. Where it is allowed at all, it runs in a child that has no network (on Linux, where the
system grants a name space), no variable, descriptor or capability of the worker's, and bounds on memory, time and
files. What that does not stop: it runs as the worker's user, so it reads and writes what that user may, and a process
that it starts in a session of its own outlives the child. So it is for files that one trusts.
"""

import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.models.kept_files import write_atomically
from detector_worker.models.runtimes.confined_child import TrialLimits, run_confined, workshop
from detector_worker.models.runtimes.model_checks import read_contents, runtime_errors
from detector_worker.models.runtimes.openvino_runtime import import_openvino

__all__ = ["convert_model", "convert_pt"]

_CHILD: Final = "detector_worker.models.runtimes.pt_conversion_child"
_VARIABLES: Final = {
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
    "YOLO_VERBOSE": "false",
    "YOLO_CONFIG_DIR": ".",
    "MPLCONFIGDIR": ".",
}
_MAX_BYTES: Final = 1 << 30


def convert_pt(path: Path, target: Path, *, limits: TrialLimits, stopped: threading.Event | None = None) -> Path:
    """Run a ``.pt`` of Ultralytics in a child and write ``target``, an ONNX file with its weights inside; blocks.

    The caller has asked whether it may: nothing here does. The result is as strange as any model from outside.
    ``stopped`` ends the child early.

    Raises:
        ConfigurationError: The extra `ultralytics` is not installed.
        ModelLoadError: It cannot be converted, or not within the limits.
    """
    if find_spec("ultralytics") is None:
        what, mend = "A .pt file can only be converted with the package ultralytics", "Install the extra `ultralytics`"
        mend = f"{mend}, or run `detector-worker mpta convert` where it is installed and pack the ONNX file."
        raise ConfigurationError(what, where=f"model {path.name}", mend=mend)
    with workshop(f"model {path.name}") as folder:
        job, made = {"path": str(path.absolute())}, folder / "room" / "model.onnx"
        ending = run_confined(
            _CHILD, job, folder, limits=limits, file_bytes=_MAX_BYTES, variables=_VARIABLES, stopped=stopped
        )
        if ending.fault is not None or ending.answers != [{"made": "model.onnx"}] or made.is_symlink():
            raise ending.error(f"model {path.name}", limits)
        write_atomically(target, read_contents(made)[0])
    return target


def convert_model(source: Path, target: Path) -> Path:
    """Write an ONNX file as IR, ``target`` (``.xml``) and its ``.bin``, weights as they are; ModelLoadError."""
    openvino = import_openvino()
    with runtime_errors(source, "could not be converted"), tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        openvino.save_model(openvino.Core().read_model(*read_contents(source)), made, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            made.with_suffix(suffix).replace(target.with_suffix(suffix))
    return target
