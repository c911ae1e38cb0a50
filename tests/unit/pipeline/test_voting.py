"""Numbers worked out by hand."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector_worker.core.entities import ClassificationResult
from detector_worker.pipeline.branches import join_votes

Method = Literal["confidence_weighted", "majority"]
votes = st.lists(
    st.builds(ClassificationResult, st.sampled_from(["A", "B", "C"]), st.floats(0, 1, width=32)),
    min_size=1,
    max_size=16,
)


def readings(*pairs: tuple[str | None, float]) -> list[ClassificationResult]:
    return [ClassificationResult(label, confidence) for label, confidence in pairs]


@pytest.mark.parametrize(
    ("pairs", "label", "confidence"),
    [
        ([("A", 0.9)], "A", 0.9),
        ([("A", 0.9), ("A", 0.7), ("A", 0.8)], "A", 0.8),
        ([("A", 0.9), ("A", 0.8), ("B", 0.7)], "A", 1.7 / 3),
        ([("A", 0.3), ("A", 0.3), ("B", 0.9)], "B", 0.3),
        ([("A", 0.6), ("B", 0.6)], "A", 0.3),
        ([("A", 0.6), (None, 0.0)], "A", 0.3),
        ([(None, 0.1), (None, 0.2)], None, 0.2),
    ],
)
def test_by_confidence_the_greatest_sum_wins_and_disagreement_lowers_it(
    pairs: list[tuple[str | None, float]], label: str | None, confidence: float
) -> None:
    joined = join_votes(readings(*pairs), "confidence_weighted")

    assert joined.top_class == label
    assert joined.confidence == pytest.approx(confidence)


@pytest.mark.parametrize(
    ("pairs", "label", "confidence"),
    [
        ([("A", 0.9)], "A", 0.9),
        ([("B", 0.95), ("A", 0.3), ("A", 0.5)], "A", 0.4),
        ([("A", 0.5), ("B", 0.9)], "B", 0.9),
        ([("B", 0.5), ("A", 0.5)], "B", 0.5),
    ],
)
def test_by_majority_most_votes_win_and_a_tie_goes_to_the_surer(
    pairs: list[tuple[str | None, float]], label: str, confidence: float
) -> None:
    joined = join_votes(readings(*pairs), "majority")

    assert joined.top_class == label
    assert joined.confidence == pytest.approx(confidence)


@given(votes=votes, method=st.sampled_from(["confidence_weighted", "majority"]))
def test_the_result_is_one_of_the_labels_and_never_surer_than_its_surest_vote(
    votes: list[ClassificationResult], method: Method
) -> None:
    joined = join_votes(votes, method)

    own = [vote.confidence for vote in votes if vote.top_class == joined.top_class]
    assert own
    assert 0 <= joined.confidence <= max(own) + 1e-9
