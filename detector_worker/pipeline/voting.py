"""Joining what a model said of several pictures of one object. Pure."""

from collections.abc import Sequence
from typing import Literal

from detector_worker.core.entities import ClassificationResult

__all__ = ["join_votes"]


def join_votes(
    votes: Sequence[ClassificationResult], method: Literal["confidence_weighted", "majority"]
) -> ClassificationResult:
    """Join the readings of several pictures into one.

    ``confidence_weighted``: the label with the greatest sum of confidences; its confidence is that sum over
    the number of *all* pictures that were read, so that disagreement lowers it. ``majority``: the label with
    most votes, whose confidence is the mean of its own. A tie goes to the greater sum, then to the label of
    the better picture.

    Args:
        votes: Best picture first, at least one; those without a label count as pictures, not as votes.
        method: How to join.
    """
    by_label: dict[str, list[float]] = {}
    for vote in votes:
        if vote.top_class is not None:
            by_label.setdefault(vote.top_class, []).append(vote.confidence)
    if not by_label:
        return ClassificationResult(None, max(vote.confidence for vote in votes))
    # `max` keeps the first of equals, and the labels stand in the order of their pictures.
    if method == "majority":
        label, own = max(by_label.items(), key=lambda item: (len(item[1]), sum(item[1])))
        return ClassificationResult(label, sum(own) / len(own))
    label, own = max(by_label.items(), key=lambda item: sum(item[1]))
    return ClassificationResult(label, sum(own) / len(votes))
