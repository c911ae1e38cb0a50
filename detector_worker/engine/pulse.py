"""Whether a group still lives: its process may be there and do nothing any more."""

from collections import deque
from typing import Final

from detector_worker.engine.group_owner import GroupReport

__all__ = ["Pulse"]

_FIRST_REPORT_S: Final = 60.0
_SILENT_S: Final = 10.0
_BUSY_S: Final = 30.0
_STUCK_THREADS: Final = 2
_REPORTS: Final = 3
"""So many in a row must agree: the first after a sleep of the process knows only that time has passed."""
_LATE_S: Final = 3.0
"""Who asks so late was away itself: frozen, or on a machine that slept. Nobody else is to blame then."""


class Pulse:
    """Judges one process by its reports. Pure: the time is given, monotonic seconds."""

    def __init__(self, now_s: float) -> None:
        """Begin with the process; importing and its first report may take a while."""
        self._silent_at_s = now_s + _FIRST_REPORT_S
        self._asked_s = now_s
        self._reports: deque[GroupReport] = deque(maxlen=_REPORTS)

    def note(self, report: GroupReport, now_s: float) -> None:
        """Take a sign of life."""
        self._reports.append(report)
        self._silent_at_s = now_s + _SILENT_S

    def fault(self, now_s: float) -> str | None:
        """Return why the process must be killed, if so; to be asked every second."""
        if now_s - self._asked_s > _LATE_S:
            self._silent_at_s = max(self._silent_at_s, now_s + _SILENT_S)
        self._asked_s = now_s
        if now_s >= self._silent_at_s:
            return "gave no sign of life"
        if len(self._reports) < _REPORTS:
            return None
        stuck_threads = min(report.stuck_threads for report in self._reports)
        if stuck_threads > _STUCK_THREADS:
            return f"has {stuck_threads} threads that are stuck in cameras"
        busy_s = min(report.busy_s for report in self._reports)
        if busy_s > _BUSY_S:
            return f"has been analysing one frame for {busy_s:.0f} s"
        return None
