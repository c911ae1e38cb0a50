"""Models that say what a picture shows, not where: a class, or a text."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector_worker.detection.layouts.candidates import Float32

__all__ = ["Label", "decode_classification", "decode_text_ctc", "decode_text_index", "decode_text_slots"]

Label = tuple[str | None, float]
"""A class or a text, None where there is none, and how sure that is."""

_DISTRIBUTION_TOLERANCE: Final = 1e-3
_PADDING: Final = "_"
"""The symbol of a slot that holds none."""
_BLANK: Final = ""
"""What CTC puts between symbols; where an alphabet has no such symbol, its padding is the blank."""


def decode_classification(output: Float32, class_names: tuple[str, ...]) -> Label:
    """Return the surest of the classes that have a name; a softmax is applied unless the numbers are a distribution."""
    confidences = _distributions(output.reshape(-1))
    named = np.flatnonzero([bool(name) for name in class_names])
    best = named[np.nan_to_num(confidences[named]).argmax()]
    return class_names[best], _sure(confidences[best])


def decode_text_slots(output: Float32, alphabet: tuple[str, ...]) -> Label:
    """Decode a text of at most so many symbols: shape (1, slots, len(alphabet)); a distribution or logits a slot.

    Returns:
        The most confident symbol of each slot, without padding, wherever it stands; None where all is padding. Its
        confidence is that of the least sure slot, padding too: one wrong or missing symbol makes another text.
    """
    slots = _distributions(output[0])
    text = _joined(slots.argmax(axis=1), alphabet, _PADDING)
    return text or None, _sure(slots.max(axis=1).min())


def decode_text_ctc(output: Float32, alphabet: tuple[str, ...]) -> Label:
    """Decode a text of CTC greedily: shape (1, T, len(alphabet)) or (T, 1, len(alphabet)); distributions or logits.

    Returns:
        The best symbol of each step, one for a run of the same, without the blank; None where all is blank. Its
        confidence is that of the least sure symbol, and a symbol's that of its surest step, since between two of them
        a step belongs to none; where all is blank, that of the least sure step.

    Source:
        Graves et al., Connectionist Temporal Classification (2006), section 3.2: best path decoding.
    """
    if not output.size:
        return None, 0.0
    steps = _distributions(output.reshape(-1, len(alphabet)))
    best, sure = steps.argmax(axis=1), steps.max(axis=1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    blank = _BLANK if _BLANK in alphabet else _PADDING
    is_symbol = best[starts] != alphabet.index(blank)
    text = _joined(best[starts], alphabet, blank)
    return text or None, _sure(np.maximum.reduceat(sure, starts)[is_symbol].min() if text else sure.min())


def decode_text_index(output: Float32, alphabet: tuple[str, ...]) -> Label:
    """Decode a text of indices into the alphabet, ended by the first negative one; the padding is no symbol.

    Returns:
        The text with confidence 1, since such a model does not tell how sure it is; None with 0 where there is none, or
        where an index is none of the alphabet's: the rest would be another text.
    """
    indices = np.rint(output.reshape(-1))
    past_end = np.flatnonzero(indices < 0)
    indices = indices[: past_end[0]] if len(past_end) else indices
    if not (indices < len(alphabet)).all():
        return None, 0.0
    text = _joined(indices.astype(np.intp), alphabet, _PADDING)
    return (text, 1.0) if text else (None, 0.0)


def _joined(symbol_ids: NDArray[np.intp], alphabet: tuple[str, ...], nothing: str) -> str:
    return "".join(symbol for symbol in map(alphabet.__getitem__, symbol_ids) if symbol != nothing)


def _distributions(values: Float32) -> Float32:
    """Bring the last axis to sum 1 by a softmax, unless every row of it is a distribution already."""
    if values.min() >= 0 and np.abs(values.sum(axis=-1) - 1).max() <= _DISTRIBUTION_TOLERANCE:
        return values
    exponential = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(exponential / exponential.sum(axis=-1, keepdims=True), np.float32)


def _sure(confidence: np.floating) -> float:
    """A confidence that was no number is none."""
    return min(1.0, float(confidence)) if np.isfinite(confidence) else 0.0
