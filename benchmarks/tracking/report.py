"""The benchmark as a whole, as one document and as a page of text."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from benchmarks.tracking.comparison import Outcome, best_outcomes
from benchmarks.tracking.contenders import CONTENDERS, OURS
from benchmarks.tracking.mot_files import read_sequences
from benchmarks.tracking.speed import ms_per_frame, peers_over_ours

__all__ = ["as_text", "measure"]

_OBJECTS: Final = (20, 100)
_FIGURES: Final = ("hota", "mota", "idf1", "id_switches", "ms_per_frame")
_HEADINGS: Final = ("HOTA", "MOTA", "IDF1", "switches", "ms/frame")


def measure(folder: Path) -> dict[str, Any]:
    """Compare all trackers on the sequences of a folder, and on made-up ones for their speed.

    Raises:
        ConfigurationError: The folder is not what it should be.
    """
    sequences = read_sequences(folder)
    taken = {objects: ms_per_frame(objects) for objects in _OBJECTS}
    outcomes = {sequence.name: best_outcomes(sequence) for sequence in sequences}
    return {
        "sequences": [
            {"name": name, **_ours_and_peers({one: _figures(outcome) for one, outcome in of_all.items()})}
            for name, of_all in outcomes.items()
        ],
        "mean": _ours_and_peers({name: _mean([of_all[name] for of_all in outcomes.values()]) for name in CONTENDERS}),
        "speed": {
            "objects": {
                str(objects): {
                    **_ours_and_peers({name: round(value, 4) for name, value in ms.items()}),
                    "fastest_peer_over_ours": round(peers_over_ours(ms), 2),
                }
                for objects, ms in taken.items()
            }
        },
        "settings": {
            name: {"version": contender.version, "settings": contender.settings}
            for name, contender in CONTENDERS.items()
        },
    }


def as_text(document: dict[str, Any]) -> str:
    """Return what `measure` has found as lines for people."""
    lines = ["HOTA, MOTA and IDF1 in percent, by TrackEval; each tracker in its better reading of the confidences.", ""]
    for part in (*document["sequences"], {"name": "mean", **document["mean"]}):
        lines.append(f"{part['name']:<24}" + "".join(f"{heading:>10}" for heading in _HEADINGS))
        for name, figures in ((OURS, part["ours"]), *part["peers"].items()):
            values = "".join(f"{figures[key]:>10g}" for key in _FIGURES)
            lines.append(f"  {name:<22}{values}  {figures.get('confidences', '')}".rstrip())
        lines.append("")
    for objects, speed in document["speed"]["objects"].items():
        peers = ", ".join(f"{name} {value:.2f}" for name, value in speed["peers"].items())
        lines.append(
            f"{objects} objects: ours {speed['ours']:.2f} ms/frame, {peers}: "
            f"{speed['fastest_peer_over_ours']:g} times faster than the fastest of them"
        )
    lines.append("")
    lines += [f"{name}: {one['version']}, {one['settings']}" for name, one in document["settings"].items()]
    return "\n".join(lines)


def _figures(outcome: Outcome) -> dict[str, Any]:
    figures = {name: round(value, 2) for name, value in asdict(outcome.scores).items()}
    return {**figures, "ms_per_frame": round(outcome.ms_per_frame, 4), "confidences": outcome.confidences}


def _mean(outcomes: Sequence[Outcome]) -> dict[str, float]:
    scores = [asdict(outcome.scores) for outcome in outcomes]
    return {
        **{name: round(fmean(one[name] for one in scores), 2) for name in scores[0]},
        "ms_per_frame": round(fmean(outcome.ms_per_frame for outcome in outcomes), 4),
    }


def _ours_and_peers(of_all: dict[str, Any]) -> dict[str, Any]:
    return {"ours": of_all[OURS], "peers": {name: value for name, value in of_all.items() if name != OURS}}
