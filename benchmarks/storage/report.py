"""``detector-worker bench storage``: several rounds of every measure, and the median of each figure."""

import asyncio
import gc
from collections.abc import Callable
from statistics import median
from typing import Any, Final

import uvloop

from benchmarks.storage.measures import Bench, open_bench
from detector_worker.cli.demo.command import work_folder

__all__ = ["as_text", "measure"]

_LEAST: Final = {"drained_rows_ratio": 0.3, "drained_images_ratio": 0.5}
_MOST: Final = {"acceptance_p99_ratio": 2.0}


def measure(*, rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure with servers of its own, in a folder that is removed afterwards; ``tell`` is told what is going on.

    Returns:
        The medians, ``rounds`` with each round's figures, and ``good``: whether all ratios are within their bounds.
    """

    async def run() -> list[dict[str, float]]:
        with work_folder(None) as folder:
            async with open_bench(folder) as bench:
                taken = []
                for number in range(1, rounds + 1):
                    tell(f"round {number} of {rounds}")
                    taken.append(await _round(bench))
                return taken

    gc.freeze()  # as the worker does
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        taken = runner.run(run())
    figures = {name: round(median(one[name] for one in taken), 3) for name in taken[0]}
    good = all(figures[name] >= least for name, least in _LEAST.items())
    good &= all(figures[name] <= most for name, most in _MOST.items())
    return {
        **figures,
        "good": good,
        "rounds": [{name: round(value, 3) for name, value in one.items()} for one in taken],
    }


async def _round(bench: Bench) -> dict[str, float]:
    """Take every figure once; each yardstick is of the same round."""
    rows_per_s, plain_rows_per_s = await bench.drained_rows()
    images_per_s, plain_images_per_s = await bench.drained_images()
    acceptance = await bench.acceptance_ms()
    return {
        "accepted_records_per_s": await bench.accepted_records_per_s(),
        "accepted_images_per_s": await bench.accepted_images_per_s(),
        "drained_rows_per_s": rows_per_s,
        "executemany_rows_per_s": plain_rows_per_s,
        "drained_rows_ratio": rows_per_s / plain_rows_per_s,
        "drained_images_per_s": images_per_s,
        "pipelined_images_per_s": plain_images_per_s,
        "drained_images_ratio": images_per_s / plain_images_per_s,
        **acceptance,
        "acceptance_p99_ratio": acceptance["draining_p99_ms"] / acceptance["idle_p99_ms"],
    }


def as_text(found: dict[str, Any]) -> str:
    """Return what `measure` has found as lines for people."""
    bounds = {name: f"at least {least:g}" for name, least in _LEAST.items()}
    bounds |= {name: f"at most {most:g}" for name, most in _MOST.items()}
    lines = [f"Medians of {len(found['rounds'])} rounds; ratios are of one round's figures.", ""]
    for name, value in found.items():
        if name not in {"good", "rounds"}:
            lines.append(f"{name:<26}{value:>14,.3f}  {bounds.get(name, '')}".rstrip())
    return "\n".join([*lines, "", "All within their bounds." if found["good"] else "Not all are within their bounds."])
