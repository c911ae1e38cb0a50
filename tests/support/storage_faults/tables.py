"""What was measured of outages, as the Markdown tables of docs/reliability.md."""

from collections.abc import Sequence

from support.storage_faults.outages import Outage

__all__ = ["outage_table"]


def outage_table(outages: Sequence[Outage]) -> str:
    """Return a row for each outage."""
    rows = [
        "| fault | visits | told after | waited at its end | other sink | first delivery after | caught up after |",
        "|---|---|---|---|---|---|---|",
        *map(_row, outages),
    ]
    return "\n".join(["", *rows, ""])


def _row(outage: Outage) -> str:
    others = [f"{flow:.2f}" for sink, flow in outage.flow.items() if sink not in outage.plan.sinks]
    cells = (
        outage.plan.name,
        f"{outage.visits}",
        "not before its end" if outage.told_s is None else f"{outage.told_s:.1f} s",
        f"{outage.waiting}",
        *(others or ["-"]),
        f"{outage.first_s:.1f} s",
        f"{outage.caught_up_s:.1f} s",
    )
    return f"| {' | '.join(cells)} |"
