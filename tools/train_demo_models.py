#!/usr/bin/env python3
"""Trains the models of the demo on scene pictures, packs them into ``demo.mpta`` and measures them.

Training needs ``pip install -e .[train]``; ``--evaluate`` measures the packed models without it.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from demo_models.evaluation import Evaluation, evaluate
from demo_models.packing import pack_archive, packed_models
from demo_models.progress import say
from demo_models.report import TrainingFacts, as_page, as_text
from demo_models.samples import MAX_RUN_SEED, render_samples
from demo_models.tasks import TASK_NAMES, TaskName, model_file

ROOT: Final = Path(__file__).resolve().parents[1]
ARCHIVE: Final = ROOT / "detector_worker" / "simulator" / "demo.mpta"
PAGE: Final = ROOT / "docs" / "demo-models.md"
CORES: Final = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done: pictures, and steps of each training."""

    stills: int
    judged: int
    steps: dict[TaskName, int]


FULL: Final = Plan(6000, 400, {"detector": 2600, "plate": 2500, "body": 3500, "brand": 1500})
"""Measured whole on two cores: 33 minutes, of which 3 are rendering and 1 is judging."""
QUICK: Final = Plan(450, 60, {"detector": 120, "plate": 250, "body": 150, "brand": 150})
"""Shows within minutes that every step works; its models are poor."""


def main() -> int:
    """Do what the command line asks; 0, 1 where an aim is missed, 2 where something is absent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about three minutes, to see that it works; poor models")
    parser.add_argument("--evaluate", action="store_true", help="train nothing, measure the packed models")
    parser.add_argument("--only", choices=TASK_NAMES, help="train this one, take the others from the archive")
    parser.add_argument("--seed", type=int, default=0, choices=range(MAX_RUN_SEED + 1), metavar="N", help="0 to 999")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for demo.mpta and demo-models.md, instead of the repository"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    work = options.output or ROOT / "build" / ("demo-models-quick" if options.quick else "demo-models")
    in_place = options.output is None and not options.quick
    archive, page = (ARCHIVE, PAGE) if in_place else (work / ARCHIVE.name, work / PAGE.name)
    if options.evaluate:
        archive = archive if options.output else ARCHIVE
        if not archive.is_file():
            return _absent(f"There is no {archive}", "Train the models first: leave out --evaluate.")
        found = evaluate(archive, stills=plan.judged, workers=CORES)
    else:
        others = packed_models(archive) or packed_models(ARCHIVE)
        if missing := [name for name in ("torch", "onnx") if find_spec(name) is None]:
            return _absent(f"Training needs {' and '.join(missing)}", "Install the extra: pip install -e .[train]")
        if options.only and not others:
            return _absent(f"There is no {archive} to take the other models from", "Train all: leave out --only.")
        tasks: tuple[TaskName, ...] = (options.only,) if options.only else TASK_NAMES
        began_s = time.monotonic()
        pack_archive(archive, others | _trained(tasks, plan, work, options.seed))
        minutes = (time.monotonic() - began_s) / 60
        found = evaluate(archive, stills=plan.judged, workers=CORES)
        facts = TrainingFacts(_command(sys.argv), options.seed, plan.stills, {t: plan.steps[t] for t in tasks}, minutes)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(as_page(found, facts), encoding="utf-8")
        say(f"written: {archive} and {page}")
    return _tell(found, as_json=options.json)


def _trained(tasks: Sequence[TaskName], plan: Plan, work: Path, seed: int) -> dict[TaskName, bytes]:
    """Render the samples and train: the detector on all cores, then the others beside each other, on one core each."""
    # Threads that wait for each other sleep instead of spinning: faster on a machine that does other things too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    samples = render_samples(work, run_seed=seed, stills=plan.stills, workers=CORES)
    models: dict[TaskName, bytes] = {}

    def keep(task: TaskName, training: Future[bytes]) -> None:
        models[task] = training.result()
        (work / model_file(task)).write_bytes(models[task])

    with ProcessPoolExecutor(min(CORES, 3), mp_context=get_context("spawn")) as pool:
        if "detector" in tasks:
            keep("detector", pool.submit(_train, "detector", samples, plan.steps["detector"], seed, CORES))
        crops = [task for task in plan.steps if task in tasks and task != "detector"]  # the longest first
        waiting = {task: pool.submit(_train, task, samples, plan.steps[task], seed, 1) for task in crops}
        for task, training in waiting.items():
            keep(task, training)
    return models


def _train(task: TaskName, samples: Path, steps: int, seed: int, threads: int) -> bytes:
    """Train one model; runs in a process of its own, the only kind that imports torch."""
    if task == "detector":
        from demo_models.detector_training import train_detector  # noqa: PLC0415 - needs the extra

        return train_detector(samples, steps=steps, seed=seed, threads=threads)
    from demo_models.classifier_training import train_crop_model  # noqa: PLC0415 - needs the extra

    return train_crop_model(task, samples, steps=steps, seed=seed, threads=threads)


def _tell(found: Evaluation, *, as_json: bool) -> int:
    missed = found.misses()
    told = asdict(found) | {"reached": found.reached(), "missed": missed}
    print(json.dumps(told) if as_json else as_text(found))  # noqa: T201 - the script's answer
    return 1 if missed else 0


def _command(arguments: Sequence[str]) -> str:
    return " ".join(("python tools/train_demo_models.py", *arguments[1:]))


def _absent(what: str, mend: str) -> int:
    say(f"{what}. {mend}")
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
