"""HOTA, MOTA and IDF1 of what a tracker says, computed by TrackEval.

Source:
    Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking" (IJCV 2020); Bernardin,
    Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics" (2008); Ristani et al.,
    "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking" (2016).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from trackeval.metrics import CLEAR, HOTA, Identity

from benchmarks.tracking.mot_files import NumberedBoxes
from detector_worker.detection.box_math import iou_matrix

__all__ = ["Scores", "score"]

_AT_HALF: Final = {"THRESHOLD": 0.5, "PRINT_CONFIG": False}


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one tracker on one sequence: in percent, but the switches."""

    hota: float
    mota: float
    idf1: float
    id_switches: int


def score(truth: Sequence[NumberedBoxes], tracked: Sequence[NumberedBoxes]) -> Scores:
    """Compare what a tracker said with the truth, frame by frame; MOTA and IDF1 at an IoU of 0.5."""
    true_ids, tracked_ids = _renumbered(truth), _renumbered(tracked)
    data: dict[str, Any] = {
        "num_timesteps": len(truth),
        "gt_ids": true_ids,
        "tracker_ids": tracked_ids,
        "similarity_scores": [
            iou_matrix(true.xyxy.astype(np.float64), said.xyxy.astype(np.float64))
            for true, said in zip(truth, tracked, strict=True)
        ],
    }
    for name, ids in (("gt", true_ids), ("tracker", tracked_ids)):
        data[f"num_{name}_dets"] = sum(map(len, ids))
        data[f"num_{name}_ids"] = len(np.unique(np.concatenate(ids)))
    clear = CLEAR(_AT_HALF).eval_sequence(data)
    return Scores(
        hota=100 * float(np.mean(HOTA().eval_sequence(data)["HOTA"])),
        mota=100 * float(clear["MOTA"]),
        idf1=100 * float(Identity(_AT_HALF).eval_sequence(data)["IDF1"]),
        id_switches=int(clear["IDSW"]),
    )


def _renumbered(boxes: Sequence[NumberedBoxes]) -> list[Any]:
    """Return the ids of each frame as numbers from 0 without gaps, as TrackEval wants them."""
    _, numbers = np.unique(np.concatenate([frame.track_id for frame in boxes]), return_inverse=True)
    return np.split(numbers, np.cumsum([len(frame.track_id) for frame in boxes])[:-1])
