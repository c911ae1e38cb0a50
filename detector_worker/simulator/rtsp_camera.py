"""One camera of the RTSP server: what it shows, and what is wrong with it."""

from dataclasses import dataclass
from typing import Final

from detector_worker.simulator.credentials import Credentials
from detector_worker.simulator.faults import Fault
from detector_worker.simulator.screen import Screen

__all__ = ["RtspCamera"]

_CLOCK_JUMP_S: Final = 3600.0


@dataclass(eq=False, slots=True)
class RtspCamera:
    """Shared by its connections; all of it may change while they run."""

    camera_id: str
    screen: Screen
    fault: Fault | None = None
    fault_since_s: float = 0.0
    """On the event loop's clock."""
    credentials: Credentials | None = None
    """None: it takes everybody."""
    clock_offset_s: float = 0.0

    @property
    def clock_ahead_s(self) -> float:
        """How far its wall clock is ahead at this moment."""
        return self.clock_offset_s + (_CLOCK_JUMP_S if self.fault is Fault.CLOCK_JUMP else 0.0)
