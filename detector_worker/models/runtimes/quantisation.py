"""Networks in whole numbers of 8 bits, made once from a network in floats and pictures of what it will see."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.models.runtimes.confined_child import TrialLimits, run_confined, workshop
from detector_worker.models.runtimes.model_checks import read_contents, runtime_errors
from detector_worker.models.runtimes.runtime import Hw, Preprocessing

__all__ = ["quantise"]

_CHILD: Final = "detector_worker.models.runtimes.quantisation_child"


def quantise(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    preprocessing: Preprocessing,
    input_hw: Hw,
    target_dir: Path,
    *,
    limits: TrialLimits,
    stopped: threading.Event | None = None,
) -> Path:
    """Return the IR of a quantised network, made in a child unless it is in the folder already; blocks for minutes.

    Args:
        path: The network in floats.
        pictures: What it will see, at least a dozen, shape (H, W, 3) of ``input_hw``, BGR, ready for `infer`.
        preprocessing: As for `InferenceRuntime.compile`, which the result wants as well.
        input_hw: The size of the pictures.
        target_dir: Where results are kept, by the hash of all that they are made of.
        limits: For the child.
        stopped: Ends it early.

    Raises:
        ConfigurationError: The extra `int8` is not installed.
        ModelLoadError: It could not be quantised, or not within the limits.
    """
    try:
        maker = f"nncf {version('nncf')}, openvino {version('openvino')}"
    except PackageNotFoundError as exc:
        mend = "Install the extra `int8` (pip install 'detector-worker[int8]'), or set models.precision to auto."
        raise ConfigurationError("Quantising needs the package nncf", where="models.precision", mend=mend) from exc
    stacked = np.stack(pictures)
    digest = hashlib.sha256(f"{maker} {preprocessing} {input_hw} {stacked.shape}".encode())
    with runtime_errors(path, "could not be read"):
        for part in (*read_contents(path), stacked.tobytes()):
            digest.update(hashlib.sha256(part).digest())
    target = target_dir / f"{digest.hexdigest()}.xml"
    if not target.exists():
        with workshop(f"model {path.name}", near=target_dir) as folder:
            np.save(folder / "pictures.npy", stacked)
            job = {"path": str(path.absolute()), "preprocessing": asdict(preprocessing)}
            ending = run_confined(_CHILD, job, folder, limits=limits, file_bytes=1 << 30, stopped=stopped)
            if ending.fault is not None or ending.answers != [{"made": "model.xml"}]:
                raise ending.error(f"model {path.name}", limits)
            for suffix in (".bin", ".xml"):  # whoever sees the second has the first
                (folder / "room" / f"model{suffix}").replace(target.with_suffix(suffix))
    return target
