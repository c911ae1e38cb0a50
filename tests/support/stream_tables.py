"""The measurements of streams as the Markdown tables of docs/cameras.md."""

from collections.abc import Sequence

from support.fault_cases import Outcome, Report
from support.stream_costs import REFERENCE, Cost

__all__ = ["cost_table", "matrix_table"]


def matrix_table(report: Report) -> str:
    """Return a row for each fault, and what became of the sound cameras."""
    rows = [
        "| fault | told as | seen after | class told after | stopped within | back after | retry told |",
        "|---|---|---|---|---|---|---|",
        *(_fault_row(outcome, report) for outcome in report.outcomes.values()),
        "",
        "| sound camera | analysed before | during the faults | ratio |",
        "|---|---|---|---|",
    ]
    for camera_id, before in report.rates_before.items():
        during = report.rates_during[camera_id]
        rows.append(f"| {camera_id} | {before:.2f}/s | {during:.2f}/s | {during / before:.2f} |")
    return "\n".join(["", *rows, ""])


def cost_table(costs: Sequence[Cost]) -> str:
    """Return a row for each kind of camera; ratios are those of one run."""
    reference_ms = next(cost.ms_per_frame for cost in costs if cost.kind == REFERENCE)
    rows = [
        "| camera | picture | pictures/s | CPU ms a picture | ratio to H.264 720p | CPU ms a second |",
        "|---|---|---|---|---|---|",
    ]
    for cost in costs:
        cells = (
            cost.kind.name,
            f"{cost.wh[0]} x {cost.wh[1]}",
            f"{cost.rate:.0f}",
            f"{cost.ms_per_frame:.2f}",
            f"{cost.ms_per_frame / reference_ms:.1f}",
            f"{cost.ms_per_frame * cost.rate:.0f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(["", *rows, ""])


def _fault_row(outcome: Outcome, report: Report) -> str:
    told = " then ".join(outcome.classes) or _while_active(outcome, report)
    if outcome.warned_s is not None:
        told += f"; `{outcome.case.warning}` after {_seconds(outcome.warned_s)}"
    cells = (
        outcome.case.name,
        told,
        _seconds(outcome.seen_s),
        _seconds(outcome.told_s),
        f"{max(outcome.spare_stop_s, outcome.stop_s):.2f} s",
        _seconds(outcome.back_s),
        _retry(outcome),
    )
    return f"| {' | '.join(cells)} |"


def _retry(outcome: Outcome) -> str:
    if outcome.back_s is None:
        return "-"
    if outcome.case.only_people_mend_it:
        return "asked for"
    attempt = "attempt under way, then " if outcome.was_opening else ""
    return attempt + _seconds(outcome.retry_in_s)


def _while_active(outcome: Outcome, report: Report) -> str:
    if outcome.damaged:
        compared = report.compared_pictures[outcome.case.camera_id]
        wrong = report.wrong_pictures[outcome.case.camera_id]
        return f"stays active; {outcome.damaged} pictures withheld, {wrong} of {compared} analysed ones damaged"
    if len(report.sizes[outcome.case.camera_id]) > 1:
        return f"stays active; analysed in its new size after {_seconds(report.new_size_s)}"
    return "stays active"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
