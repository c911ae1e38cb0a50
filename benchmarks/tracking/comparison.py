"""All trackers on the same detections: who follows how well."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.tracking.contenders import CONTENDERS, Contender
from benchmarks.tracking.mot_files import FoundBoxes, MotSequence
from benchmarks.tracking.scoring import Scores, score

__all__ = ["Outcome", "best_outcomes"]

_CONVENTIONS: Final = ("all 1.0", "scaled to 0..1")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one tracker reached on one sequence."""

    scores: Scores
    ms_per_frame: float
    confidences: str
    """How the confidences of the detections were read."""


def best_outcomes(sequence: MotSequence) -> dict[str, Outcome]:
    """Let each tracker follow a sequence in both readings of its confidences; returns the better one by HOTA.

    What a public detector's confidence means is said nowhere: it may be a margin of any scale.
    """
    outcomes = {}
    for name, contender in CONTENDERS.items():
        both = [_outcome(contender, sequence, convention) for convention in _CONVENTIONS]
        outcomes[name] = max(both, key=lambda outcome: outcome.scores.hota)
    return outcomes


def _outcome(contender: Contender, sequence: MotSequence, convention: str) -> Outcome:
    follower = contender.begin(sequence.frame_rate, sequence.picture)
    said, taken_s = [], 0.0
    for found in _read_as(convention, sequence.found):
        detections = follower.prepared(found)
        began_s = time.perf_counter()
        updated = follower.update(detections)
        taken_s += time.perf_counter() - began_s
        said.append(follower.said(updated))
    return Outcome(score(sequence.truth, said), taken_s * 1e3 / len(said), convention)


def _read_as(convention: str, found: Sequence[FoundBoxes]) -> list[FoundBoxes]:
    if convention == _CONVENTIONS[0]:
        return [FoundBoxes(np.ones_like(frame.confidence), frame.xyxy) for frame in found]
    confidence = np.concatenate([frame.confidence for frame in found])
    lowest, span = confidence.min(initial=np.inf), max(float(np.ptp(confidence)) if confidence.size else 0.0, 1e-9)
    return [FoundBoxes((frame.confidence - lowest) / span, frame.xyxy) for frame in found]
