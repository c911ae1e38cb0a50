"""What happens to the cameras of the fault matrix, and what came of it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from detector_worker.core.entities import StreamState
from detector_worker.simulator.faults import Fault, SnapshotFault

__all__ = [
    "CASES",
    "CORRUPT",
    "HTTP",
    "KILLED",
    "PASSWORD",
    "RESIZED",
    "RTSP",
    "SOUND",
    "STOOD_IN_FOR",
    "TARGET_FPS",
    "Case",
    "Outcome",
    "Report",
]

PASSWORD: Final = "canary-7f3a"  # noqa: S105 - it is there to be searched for
SOUND: Final = ("sound-1", "sound-2", "sound-snapshots")
"""The cameras that nothing happens to."""
TARGET_FPS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Case:
    """What happens to one camera."""

    name: str
    fault: Fault | SnapshotFault | None
    """None: see the name."""
    error_class: str | None
    """None: the camera stays active."""
    is_cut: bool = False
    """The running connection is cut at the same moment, for the fault is about new ones."""
    warning: str | None = None
    """What is told beside the state."""
    suffix: str = ""
    """Of the camera's address."""

    @property
    def camera_id(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def only_people_mend_it(self) -> bool:
        """The worker waits for a minute, unless it is asked."""
        return self.error_class in {"authentication", "not_found"}


KILLED: Final = Case("camera killed", None, "refused")
RESIZED: Final = Case("resolution changes", None, None)
CORRUPT: Final = Case("corrupted packets", Fault.CORRUPT, None)
STOOD_IN_FOR: Final = Case("refuse with a fall-back", Fault.REFUSE, "refused", warning="fallback")
RTSP: Final = (
    Case("refuse", Fault.REFUSE, "refused"),
    Case("hang on connect", Fault.HANG_CONNECT, "timeout", is_cut=True),
    Case("hang after PLAY", Fault.HANG_PLAY, "timeout"),
    Case("drip", Fault.DRIP, "timeout"),
    Case("reset", Fault.RESET, "ended"),
    Case("end of stream", Fault.END, "ended"),
    Case("401", Fault.UNAUTHORIZED, "authentication", is_cut=True),
    Case("404", Fault.NOT_FOUND, "not_found", is_cut=True),
    Case("audio only", Fault.AUDIO_ONLY, "codec", is_cut=True),
    RESIZED,
    CORRUPT,
    Case("time runs backwards", Fault.BACKWARDS, None),
    Case("wall clock jumps", Fault.CLOCK_JUMP, None, warning="clock_suspect"),
    STOOD_IN_FOR,
)
HTTP: Final = (
    Case("HTTP refuse", SnapshotFault.REFUSE, "ended"),
    Case("HTTP hang", SnapshotFault.HANG, "timeout"),
    Case("HTTP drip", SnapshotFault.DRIP, "timeout"),
    Case("HTTP 401", SnapshotFault.UNAUTHORIZED, "authentication"),
    Case("HTTP 404", SnapshotFault.NOT_FOUND, "not_found"),
    Case("HTTP half a picture", SnapshotFault.TRUNCATED, "corrupt"),
    Case("HTTP MJPEG hang", SnapshotFault.HANG, "timeout", suffix=".mjpeg"),
)
CASES: Final = (*RTSP, KILLED, *HTTP)


@dataclass(slots=True)
class Outcome:
    """What was seen of one case; times in seconds."""

    case: Case
    seen_s: float | None = None
    """From the fault until the first state that tells of any."""
    told_s: float | None = None
    """Until the one that tells its class; None: never."""
    classes: tuple[str, ...] = ()
    """All that were told while the fault lasted, in their order."""
    warned_s: float | None = None
    """Until the case's warning."""
    analysed_per_s: float = 0.0
    """While the fault lasted."""
    states: frozenset[StreamState] = frozenset()
    """All states in that time."""
    spare_stop_s: float = 0.0
    """How long it took to end a second stream to the same camera, four seconds old, in the fault."""
    stop_s: float = 0.0
    """How long it took to end the camera at last."""
    back_s: float | None = None
    """From the end of the fault to the first picture; None: it had never gone."""
    retry_in_s: float = 0.0
    """What had been told to be the time until the next attempt, at most."""
    was_opening: bool = False
    """When the fault ended, an attempt was under way that still suffered from it."""
    damaged: int = 0


@dataclass(slots=True)
class Report:
    """What came out."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By the case's name."""
    rates_before: dict[str, float] = field(default_factory=dict)
    """Analysed frames per second of the sound cameras."""
    rates_during: dict[str, float] = field(default_factory=dict)
    calm_s: float = 0.0
    analysed_before: Counter[str] = field(default_factory=Counter)
    """By camera."""
    wrong_pictures: Counter[str] = field(default_factory=Counter)
    """Analysed pictures that differ from the film's by any bit, by camera."""
    compared_pictures: Counter[str] = field(default_factory=Counter)
    sizes: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Of the analysed pictures: each change, by camera."""
    new_size_s: float | None = None
    """From the change of resolution to the first analysed picture of the new one."""
    most_stuck_threads: int = 0
    shown: str = ""
    """All statuses, reports, logs, errors and metrics."""
