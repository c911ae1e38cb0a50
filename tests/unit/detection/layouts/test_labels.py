import math
from typing import Any

import numpy as np
import pytest

from detector_worker.detection.layouts import decode_label


def about(confidence: float) -> Any:
    return pytest.approx(confidence, rel=1e-5, abs=1e-6)


def test_a_softmax_is_applied_only_where_it_is_missing() -> None:
    distribution = np.array([[0.7, 0.2, 0.1]], np.float32).reshape(1, 3, 1, 1)
    logits = np.array([[1.0, 2.0, 3.0]], np.float32)

    assert decode_label("classification", distribution, tuple("abc")) == ("a", about(0.7))
    assert decode_label("classification", logits, tuple("abc")) == ("c", about(0.66524096))


@pytest.mark.parametrize(("logits", "confidence"), [((1000.0, 0.0), 1.0), ((2.0, -1.0), 0.95257413)])
def test_logits_that_are_huge_or_sum_to_one_by_chance_are_still_logits(
    logits: tuple[float, float], confidence: float
) -> None:
    output = np.array([logits], np.float32)

    assert decode_label("classification", output, ("a", "b")) == ("a", about(confidence))


def test_a_class_without_a_name_is_none() -> None:
    output = np.array([[0.7, 0.1, 0.2]], np.float32)

    assert decode_label("classification", output, ("", "b", "c")) == ("c", about(0.2))


def slots(*rows: tuple[str, float]) -> Any:
    """A distribution over ``ABC_`` for each symbol: its confidence, and the rest shared among the others."""
    output = np.array(
        [[confidence if one == symbol else (1 - confidence) / 3 for one in "ABC_"] for symbol, confidence in rows]
    )
    return output[np.newaxis].astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "text", "confidence"),
    [
        ([("A", 0.9), ("B", 0.7), ("A", 0.8)], "ABA", 0.7),
        ([("C", 0.9), ("_", 0.95), ("_", 1.0)], "C", 0.9),
        ([("A", 0.9), ("_", 0.8), ("A", 1.0)], "AA", 0.8),
        ([("A", 0.9), ("_", 0.4), ("_", 1.0)], "A", 0.4),
        ([("_", 0.9), ("_", 0.6)], None, 0.6),
    ],
)
def test_a_text_is_the_symbols_without_padding_and_as_sure_as_its_weakest_slot(
    rows: list[tuple[str, float]], text: str | None, confidence: float
) -> None:
    read, sure = decode_label("textSlots", slots(*rows), tuple("ABC_"))

    assert read == text
    assert sure == about(confidence)


def test_a_symbol_may_be_a_word_or_nothing() -> None:
    assert (
        decode_label("textSlots", slots(("A", 1), ("B", 1), ("_", 1)), ("<Zhejiang>", "7", "", "_"))[0] == "<Zhejiang>7"
    )
    assert decode_label("textSlots", slots(("C", 1)), ("a", "b", "", "_"))[0] is None


def test_a_text_is_the_same_from_logits_and_from_their_softmax() -> None:
    logits = np.random.default_rng(5).normal(0, 4, (1, 200, 4)).astype(np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)

    text, confidence = decode_label("textSlots", logits, tuple("ABC_"))

    assert text == "".join("ABC_"[row.index(max(row))] for row in logits[0].tolist()).replace("_", "")
    assert confidence == about(softmax.max(axis=2).min())
    assert decode_label("textSlots", softmax, tuple("ABC_")) == (text, softmax.max(axis=2).min())


def test_one_slot_of_logits_that_looks_like_a_distribution_is_still_logits() -> None:
    logits = np.array([[[0.0, 1.0], [5.0, 0.0]]], np.float32)

    text, confidence = decode_label("textSlots", logits, ("A", "B"))

    assert text == "BA"
    assert confidence == about(1 / (1 + math.exp(-1)))


CTC = ("", *"ABC")


def steps(symbols: str, alphabet: tuple[str, ...] = CTC, sure: float = 0.9) -> Any:
    """A distribution over the alphabet for each step; ``-`` is the blank."""
    rest = (1 - sure) / (len(alphabet) - 1)
    ids = [alphabet.index(symbol.replace("-", "")) for symbol in symbols]
    return np.array([[sure if one == best else rest for one in range(len(alphabet))] for best in ids], np.float32)


@pytest.mark.parametrize(
    ("symbols", "text"),
    [
        ("AABBB-B", "ABB"),
        ("--A--", "A"),
        ("A-A", "AA"),
        ("AAA", "A"),
        ("-", None),
        ("C", "C"),
        ("AB-BA", "ABBA"),
    ],
)
@pytest.mark.parametrize("alphabet", [("", *"ABC"), (*"ABC", ""), ("A", "", "B", "C")])
@pytest.mark.parametrize("time_first", [False, True])
def test_a_run_of_one_symbol_is_one_and_the_blank_none(
    symbols: str, text: str | None, alphabet: tuple[str, ...], time_first: bool
) -> None:
    output = steps(symbols, alphabet)[:, np.newaxis] if time_first else steps(symbols, alphabet)[np.newaxis]

    assert decode_label("textCtc", output, alphabet) == (text, about(0.9))


def test_no_step_at_all_is_no_text() -> None:
    assert decode_label("textCtc", np.empty((1, 0, 4), np.float32), CTC) == (None, 0.0)


def test_without_an_empty_symbol_the_padding_is_the_blank() -> None:
    output = steps("A_AB", ("_", "A", "B"))[np.newaxis]

    assert decode_label("textCtc", output, ("_", "A", "B"))[0] == "AAB"


def test_a_text_with_a_blank_is_as_sure_as_the_surest_step_of_its_least_sure_symbol() -> None:
    output = np.concatenate(
        [steps(*one) for one in (("A", CTC, 0.6), ("A", CTC, 0.8), ("-", CTC, 0.5), ("B", CTC, 0.9))]
    )

    assert decode_label("textCtc", output[np.newaxis], CTC) == ("AB", about(0.8))
    assert decode_label("textCtc", steps("--", CTC, 0.7)[np.newaxis], CTC) == (None, about(0.7))


def test_a_text_with_a_blank_is_the_same_from_logits() -> None:
    output = np.log(steps("AAB-B")) + 3

    assert decode_label("textCtc", output[np.newaxis], CTC) == ("ABB", about(0.9))


@pytest.mark.parametrize("shape", [(1, 6), (1, 6, 1, 1), (1, 6, 1)])
def test_a_list_of_indices_ends_at_the_first_negative_one(shape: tuple[int, ...]) -> None:
    output = np.array([2, 0, 1, -1, 2, -1], np.float32).reshape(shape)

    assert decode_label("textIndex", output, ("7", "<Zhejiang>", "A")) == ("A7<Zhejiang>", 1.0)


@pytest.mark.parametrize("indices", [(-1, 0, 0), (3, 0, -1), (math.nan, -1, -1), (0, math.inf, 0), (0, 1e30, -1)])
def test_an_empty_list_or_one_with_an_unknown_index_is_no_text(indices: tuple[float, ...]) -> None:
    assert decode_label("textIndex", np.array([indices], np.float32), ("a", "b", "c")) == (None, 0.0)
