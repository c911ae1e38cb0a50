"""An evaluation for people: a table for the terminal, and the page ``docs/demo-models.md``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from demo_models.evaluation import AnswerFigures, Evaluation
from demo_models.tasks import AIMS, CROP_TASKS, MIN_CONFIDENCE, TASK_NAMES, model_file

__all__ = ["TrainingFacts", "as_page", "as_text"]

_WHAT = {"detector": "mean AP50", "brand": "right", "body": "right", "plate": "whole plates right"}


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """How the models came about."""

    command: str
    run_seed: int
    stills: int
    steps: dict[str, int]
    minutes: float


def as_text(found: Evaluation) -> str:
    """Return the figures as lines for a terminal."""
    tables = (_aims(found), _costs(found), _classes(found), _answers(found), _heights(found))
    return "\n\n".join(_aligned(table) for table in tables)


def as_page(found: Evaluation, training: TrainingFacts) -> str:
    """Return the page in Markdown."""
    steps = ", ".join(f"{name} {count}" for name, count in training.steps.items())
    brand, plate = CROP_TASKS["brand"], CROP_TASKS["plate"]
    return f"""# The demo's models

Made by `tools/train_demo_models.py`, which wrote this page too. They know nothing but the simulator's scenes: in front
of a real camera they are of no use. `detector_worker/simulator/demo.mpta` holds all four
({found.archive_bytes / 1e6:.1f} MB).

{_markdown(_aims(found))}

{_markdown(_costs(found))}

Milliseconds are the middle of many pictures, one core, OpenVINO in f32, on the machine that measured.

## Detector

Objects at least half visible, plates at least 9 pixels high and 60 % visible; others are neither asked for nor
counted as false. Recall, precision and confidence hold where the detector is at least {MIN_CONFIDENCE:.0%} sure, as the
worker demands.

{_markdown(_classes(found))}

## Branches

Each on the boxes that the detector found. Right: the most probable answer is the right one. Answered: it is at least
{MIN_CONFIDENCE:.0%} sure, below which the worker writes NULL. Brand and body of objects at least
{brand.judged_visible:.0%} visible; plates unoccluded and at least {plate.judged_px:.0f} pixels high.

{_markdown(_answers(found))}

Unoccluded plates by their height in the picture of 1280 x 720:

{_markdown(_heights(found))}

## How to get these figures

Judged on {found.stills} pictures, seeds {found.first_seed} to {found.last_seed}; trained on {training.stills} others
in other places, run seed {training.run_seed}. `tools/demo_models/samples.py` splits places between
the two by construction.

- `{training.command}` trained them in {training.minutes:.0f} minutes (steps: {steps}).
  It needs `pip install -e .[train]`.
- `.venv/bin/python tools/train_demo_models.py --evaluate` measures the archive again, without torch.
"""


Table = list[list[str]]


def _aims(found: Evaluation) -> Table:
    reached, missed = found.reached(), found.misses()
    rows = [
        [name, _WHAT[name], _share(reached[name]), _share(AIMS[name]), "no" if name in missed else "yes"]
        for name in TASK_NAMES
    ]
    return [["model", "figure", "reached", "aim", "met"], *rows]


def _costs(found: Evaluation) -> Table:
    rows = [
        [
            name,
            model_file(name),
            f"{one.input_hw[1]} x {one.input_hw[0]}",
            f"{one.file_bytes / 1e6:.2f}",
            f"{one.ms:.2f}",
        ]
        for name, one in found.models.items()
    ]
    return [["model", "file", "input", "MB", "ms"], *rows]


def _classes(found: Evaluation) -> Table:
    rows = [
        [name, str(one.objects), *map(_share, (one.average_precision, one.recall, one.precision, one.mean_confidence))]
        for name, one in found.classes.items()
    ]
    return [["class", "objects", "AP50", "recall", "precision", "mean confidence"], *rows]


def _answers(found: Evaluation) -> Table:
    return [["model", *_ANSWER_HEAD], *_answer_rows(found.answers.items())]


def _heights(found: Evaluation) -> Table:
    return [["plate height", *_ANSWER_HEAD], *_answer_rows(found.plates_by_height.items())]


_ANSWER_HEAD = ("crops", "right", "answered", "right of answered")


def _answer_rows(figures: Iterable[tuple[str, AnswerFigures]]) -> Table:
    return [
        [name, str(one.crops), _share(one.right), _share(one.answered), _share(one.right_of_answered)]
        for name, one in figures
    ]


def _share(value: float) -> str:
    return f"{value:.3f}"


def _markdown(table: Table) -> str:
    head, *rows = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join((head, "|---" * len(table[0]) + "|", *rows))


def _aligned(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(_padded(row, widths) for row in table)


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
