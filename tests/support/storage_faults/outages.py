"""One outage, from a calm time before it until all is delivered: what is measured, and what must hold."""

import asyncio
import math
import time
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from support.storage_faults.bench import Bench, bench
from support.storage_faults.harms import Harm
from support.waiting import wait_until

from detector_worker.core.outbox import Sink
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers

__all__ = ["Outage", "Plan", "suffer"]

_CALM_S: Final = 1.5
_CATCH_UP_LIMIT_S: Final = 60.0
_SURE_S: Final = 0.5
"""So long before and after a fault it is not sure that a message finds its listener."""
_RECOVERY_LIMIT_S: Final = 20.0
_LEAST_FLOW: Final = 0.9
_MOST_FLOW: Final = 0.2
_NAMES: Final = {Sink.POSTGRESQL: "PostgreSQL", Sink.REDIS: "Redis"}


@dataclass(frozen=True)
class Plan:
    """What is to be suffered, by whom, for how long, and under which load."""

    harm: Harm
    sinks: tuple[Sink, ...]
    lasts_s: float
    visits_per_s: float

    @property
    def name(self) -> str:
        """As the table says it."""
        return f"{' and '.join(_NAMES[sink] for sink in self.sinks)}: {self.harm.name}"


@dataclass
class Outage:
    """What came of a plan."""

    plan: Plan
    visits: int = 0
    told_s: float | None = None
    """When a sink was said to be down, after the beginning of the fault; None: not before its end."""
    waiting: int = 0
    """Entries in the spool at the end of the fault."""
    flow: dict[Sink, float] = field(default_factory=dict)
    """Of each sink: entries delivered during the fault to those accepted."""
    first_s: float = 0.0
    """The first delivery, after the end of the fault; where two sinks came to harm, of the later one."""
    caught_up_s: float = 0.0
    """All that was accepted before the end of the fault is delivered, after that end; visits go on coming."""
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.plan.name}: {'; '.join(self.problems)}"


async def suffer(plan: Plan, folder: Path, healthy: EmbeddedServers) -> Outage:
    """Carry out a plan below ``folder``; ``healthy`` serves the sink that is not to come to harm."""
    outage, stopping = Outage(plan), asyncio.Event()
    async with (
        bench(folder, healthy, harm=plan.harm, sinks=plan.sinks, visits_per_s=plan.visits_per_s) as run,
        asyncio.TaskGroup() as tasks,
    ):
        loading = tasks.create_task(run.load.run(stopping))
        await asyncio.sleep(_CALM_S)
        begun_s, before = time.monotonic(), await run.look()
        await _at_once(plan.harm.begin(patient) for patient in run.patients)
        await asyncio.sleep(plan.lasts_s)
        after = await run.look()
        await _at_once(plan.harm.end(patient) for patient in run.patients)
        ended_s = time.monotonic()
        await _until_delivered_beyond(run, {sink: after.oldest_at[sink] or 0.0 for sink in plan.sinks})
        outage.first_s = time.monotonic() - ended_s
        await _until_delivered_beyond(run, dict.fromkeys(plan.sinks, after.at))
        outage.caught_up_s = time.monotonic() - ended_s
        calm_again_s = max(time.monotonic(), run.heard.connected_s) + _SURE_S
        await asyncio.sleep(_SURE_S + _CALM_S)
        stopping.set()
        await loading
        await _until_delivered_beyond(run, dict.fromkeys(Sink, time.time()))
        await asyncio.sleep(_SURE_S)  # a message takes its time

        def is_sure(created_s: float) -> bool:
            return Sink.REDIS not in plan.sinks or not begun_s - _SURE_S < created_s < calm_again_s

        outage.visits, outage.waiting = len(run.ledger.created_s), sum(after.waiting.values())
        outage.told_s = min((down_s - begun_s for down_s in run.downs if begun_s < down_s < ended_s), default=None)
        outage.flow = after.flow_since(before)
        outage.problems = [*_course_problems(outage), *await run.judge(is_sure)]
    return outage


async def _until_delivered_beyond(run: Bench, moments: Mapping[Sink, float]) -> None:
    """Wait until nothing waits for these sinks that is as old as that, seconds since 1970."""

    async def is_delivered() -> bool:
        oldest_at = (await run.look()).oldest_at
        return all((oldest_at[sink] or math.inf) > moment for sink, moment in moments.items())

    await wait_until(is_delivered, timeout_s=_CATCH_UP_LIMIT_S)


async def _at_once(work: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*work)


def _course_problems(outage: Outage) -> list[str]:
    """The fault was real, the sink that came to no harm did not notice it, and the other one was soon back."""
    problems = []
    if outage.first_s > _RECOVERY_LIMIT_S:
        problems.append(f"the first delivery came {outage.first_s:.1f} s after the end of the fault")
    for sink, flow in outage.flow.items():
        if sink in outage.plan.sinks and flow > _MOST_FLOW:
            problems.append(f"{sink} took {flow:.2f} of what was accepted in spite of the fault")
        if sink not in outage.plan.sinks and flow < _LEAST_FLOW:
            problems.append(f"{sink} took only {flow:.2f} of what was accepted during a fault of the other one")
    return problems
