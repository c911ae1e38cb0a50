"""Many cameras of one group, each with a fault of its own at the same moment, beside cameras that are sound."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray
from support.camera_process import CameraProcess
from support.tiny_clip import Square, read_frame_number, write_tiny_clip
from support.tiny_models import write_tiny_mpta
from support.waiting import wait_until
from support.watched_group import GroupLog, Told, WatchedGroup, collected_logs, watched_group

from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.frame import Frame, FrameScaler
from detector_worker.engine.lane import Analysed
from detector_worker.simulator.faults import Fault, SnapshotFault

__all__ = ["CASES", "PASSWORD", "SOUND", "TARGET_FPS", "Case", "Outcome", "Report", "run_fault_matrix"]

PASSWORD: Final = "canary-7f3a"  # noqa: S105 - it is there to be searched for
SOUND: Final = ("sound-1", "sound-2", "sound-snapshots")
"""The cameras that nothing happens to."""
TARGET_FPS: Final = 5.0
_SNAPSHOT_INTERVAL_S: Final = 0.2
_FPS: Final = 20
_SPARE_AFTER_S: Final = 1.0
_SPARE_LIVES_S: Final = 4.0
_FAULTS_LAST_S: Final = 12.0
_WH: Final = (320, 192)
_OTHER_WH: Final = (640, 384)
_DENSE_WH: Final = (1280, 720)
_TELLS: Final = frozenset({StreamState.STALLED, StreamState.ERROR, StreamState.FAILED})


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


_KILLED: Final = Case("camera killed", None, "refused")
_RESIZED: Final = Case("resolution changes", None, None)
_CORRUPT: Final = Case("corrupted packets", Fault.CORRUPT, None)
_STOOD_IN_FOR: Final = Case("refuse with a fall-back", Fault.REFUSE, "refused", warning="fallback")
_STAND_IN: Final = "stand-in"
_RTSP: Final = (
    Case("refuse", Fault.REFUSE, "refused"),
    Case("hang on connect", Fault.HANG_CONNECT, "timeout", is_cut=True),
    Case("hang after PLAY", Fault.HANG_PLAY, "timeout"),
    Case("drip", Fault.DRIP, "timeout"),
    Case("reset", Fault.RESET, "ended"),
    Case("end of stream", Fault.END, "ended"),
    Case("401", Fault.UNAUTHORIZED, "authentication", is_cut=True),
    Case("404", Fault.NOT_FOUND, "not_found", is_cut=True),
    Case("audio only", Fault.AUDIO_ONLY, "codec", is_cut=True),
    _RESIZED,
    _CORRUPT,
    Case("time runs backwards", Fault.BACKWARDS, None),
    Case("wall clock jumps", Fault.CLOCK_JUMP, None, warning="clock_suspect"),
    _STOOD_IN_FOR,
)
_HTTP: Final = (
    Case("HTTP refuse", SnapshotFault.REFUSE, "ended"),
    Case("HTTP hang", SnapshotFault.HANG, "timeout"),
    Case("HTTP drip", SnapshotFault.DRIP, "timeout"),
    Case("HTTP 401", SnapshotFault.UNAUTHORIZED, "authentication"),
    Case("HTTP 404", SnapshotFault.NOT_FOUND, "not_found"),
    Case("HTTP half a picture", SnapshotFault.TRUNCATED, "corrupt"),
    Case("HTTP MJPEG hang", SnapshotFault.HANG, "timeout", suffix=".mjpeg"),
)
CASES: Final = (*_RTSP, _KILLED, *_HTTP)


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


async def run_fault_matrix(folder: Path, *, calm_s: float) -> Report:
    """Run it once.

    Args:
        folder: For films, archive and data.
        calm_s: How long the cameras are watched before anything happens.
    """
    films = await asyncio.to_thread(_Films, folder)
    report, eye = Report(calm_s=calm_s), _Eye(films)
    login = ("viewer", PASSWORD)
    rtsp = {case.camera_id: films.of(case) for case in _RTSP}
    async with AsyncExitStack() as stack:
        logs = stack.enter_context(collected_logs())
        snapshots = dict.fromkeys([_STAND_IN, *(case.camera_id for case in _HTTP)], films.plain)
        faulty = CameraProcess(rtsp, snapshots=snapshots, login=login)
        doomed = CameraProcess({_KILLED.camera_id: films.plain}, login=login)
        sound = CameraProcess(dict.fromkeys(SOUND[:2], films.plain), snapshots={SOUND[2]: films.plain}, login=login)
        for process in (faulty, doomed, sound):
            await stack.enter_async_context(process)
        group = await stack.enter_async_context(
            watched_group(folder / "data", observe=eye, reconnect_interval=1.0, target_fps=TARGET_FPS)
        )
        run = _Run(group, films, eye, report, faulty=faulty, doomed=doomed)
        for camera_id in SOUND:
            await run.watch(camera_id, sound.url(camera_id))
        await run.all()
        report.most_stuck_threads = max(one.stuck_threads for one in group.log.reports)
        report.shown += f"{group.log.shown()} {logs}"
    report.wrong_pictures, report.compared_pictures, report.sizes = eye.wrong, eye.compared, eye.sizes
    report.shown += str(logs)
    return report


class _Films:
    """Two sizes of one film, and their true pictures; a third with large key frames, to be hit."""

    def __init__(self, folder: Path) -> None:
        squares = (Square("red", (32.0, 100.0), (96.0, 0.0)), Square("green", (240.0, 30.0)))
        self.plain, self.other, self.dense = (folder / f"{name}.mp4" for name in ("plain", "other", "dense"))
        self.archive = write_tiny_mpta(folder / "tiny.mpta", detector_hw=(192, 320))
        for path, wh, gop in ((self.plain, _WH, 10), (self.other, _OTHER_WH, 10), (self.dense, _DENSE_WH, 4)):
            write_tiny_clip(path, squares=squares, wh=wh, fps=_FPS, seconds=2.0, gop=gop)
        self._truths = {_CORRUPT.camera_id: [_pictures(self.dense)]}
        self._truths[_RESIZED.camera_id] = [_pictures(self.plain), _pictures(self.other)]

    def of(self, case: Case) -> Path:
        return self.dense if case is _CORRUPT else self.plain

    def is_true(self, frame: Frame) -> bool | None:
        """Whether a picture is the film's to the bit; None: its camera's are not compared."""
        if frame.camera_id not in self._truths:
            return None
        image = frame.bgr()
        truth = next((one for one in self._truths[frame.camera_id] if one[0].shape == image.shape), None)
        number = read_frame_number(image)
        return truth is not None and number < len(truth) and np.array_equal(truth[number], image)


class _Eye:
    """Sees every analysed frame, in the analysis threads; one lane is in one thread at a time."""

    def __init__(self, films: _Films) -> None:
        self._films = films
        self.analysed, self.wrong, self.compared = Counter[str](), Counter[str](), Counter[str]()
        self.sizes: dict[str, list[tuple[int, int]]] = {}
        self.last_change_s: dict[str, float] = {}

    def __call__(self, analysed: Analysed) -> None:
        frame = analysed.frame
        camera_id, sizes = frame.camera_id, self.sizes.setdefault(frame.camera_id, [])
        self.analysed[camera_id] += 1
        if sizes[-1:] != [frame.wh]:
            self.last_change_s[camera_id] = time.monotonic()
            sizes.append(frame.wh)
        is_true = self._films.is_true(frame)
        self.compared[camera_id] += is_true is not None
        self.wrong[camera_id] += is_true is False


class _Run:
    def __init__(
        self,
        group: WatchedGroup,
        films: _Films,
        eye: _Eye,
        report: Report,
        *,
        faulty: CameraProcess,
        doomed: CameraProcess,
    ) -> None:
        self._group, self._films, self._eye, self._report = group, films, eye, report
        self._faulty, self._doomed = faulty, doomed
        self._log: GroupLog = group.log
        self._outcomes = report.outcomes
        self._caused_s: dict[str, float] = {}
        self._ended_s: dict[str, float] = {}
        self._watched: dict[str, str] = {}
        self._analysed_before_fault = Counter[str]()

    async def watch(self, camera_id: str, url: str, **rest: Any) -> None:
        """Analyse a camera."""
        archive = self._films.archive
        rest["snapshot_interval_s"] = _SNAPSHOT_INTERVAL_S
        self._watched[camera_id] = await self._group.watch(camera_id, url, archive, **rest)

    async def _watch_case(self, case: Case) -> None:
        rest: dict[str, Any] = {}
        if case is _CORRUPT:
            rest["target_fps"] = float(_FPS)  # every picture is compared
        if case is _STOOD_IN_FOR:
            rest["snapshot_url"] = self._faulty.url(_STAND_IN)
        await self.watch(case.camera_id, self._url(case), **rest)

    async def all(self) -> None:
        for case in CASES:
            self._outcomes[case.name] = Outcome(case)
            await self._watch_case(case)
        for name in tuple(self._watched):
            await self._log.wait_until_active(name)
        await wait_until(lambda: all(self._eye.analysed[name] >= TARGET_FPS for name in self._watched), timeout_s=15)
        await self.watch("forbidden", f"rtsp://viewer:{PASSWORD}@169.254.169.254/cam")
        began_s, before = time.monotonic(), Counter(self._eye.analysed)
        await asyncio.sleep(self._report.calm_s)
        self._report.rates_before = self._rates(before, began_s)
        self._report.analysed_before = self._eye.analysed - before
        began_s, before = time.monotonic(), Counter(self._eye.analysed)
        self._analysed_before_fault = before
        await _at_once(self._cause(case) for case in CASES)
        await self._try_spares(began_s)
        await asyncio.sleep(max(0.0, began_s + _FAULTS_LAST_S - time.monotonic()))
        await self._end()
        await _at_once(self._see_it_back(case) for case in CASES)
        self._report.rates_during = self._rates(before, began_s)
        await self._stop()

    def _url(self, case: Case) -> str:
        return (self._doomed if case is _KILLED else self._faulty).url(case.camera_id) + case.suffix

    def _rates(self, before: Counter[str], began_s: float) -> dict[str, float]:
        seconds = time.monotonic() - began_s
        return {name: (self._eye.analysed[name] - before[name]) / seconds for name in SOUND}

    async def _cause(self, case: Case) -> None:
        self._caused_s[case.name] = time.monotonic()
        if case is _KILLED:
            await self._doomed.kill()
        elif case is _RESIZED:
            await self._faulty.switch_clip(case.camera_id, self._films.other)
        else:
            if case.is_cut:
                await self._faulty.set_fault(case.camera_id, Fault.REFUSE)
            await self._faulty.set_fault(case.camera_id, case.fault)

    async def _try_spares(self, began_s: float) -> None:
        """Watch every faulty camera a second time, and stop that while the fault lasts."""
        await asyncio.sleep(max(0.0, began_s + _SPARE_AFTER_S - time.monotonic()))
        for case in CASES:
            await self._spare(case)
        await asyncio.sleep(_SPARE_LIVES_S)
        for name in ("forbidden", *(f"{case.camera_id}-spare" for case in CASES)):
            self._report.shown += await self._group.refusal(name)
        await _at_once(self._stop_spare(case) for case in CASES)

    async def _spare(self, case: Case) -> None:
        await self.watch(f"{case.camera_id}-spare", f"{self._url(case)}?stream=2", target_fps=1.0)

    async def _stop_spare(self, case: Case) -> None:
        subscription_id = self._watched.pop(f"{case.camera_id}-spare")
        self._outcomes[case.name].spare_stop_s = await self._group.stop_time_s(subscription_id)

    async def _end(self) -> None:
        """Note what was told of each fault, then end all of them."""
        starting = asyncio.create_task(self._doomed.start())
        for case in CASES:
            if case is _KILLED:
                continue
            self._note_told(case)
            if case is _RESIZED:
                await self._faulty.switch_clip(case.camera_id, self._films.plain)
            else:
                await self._faulty.set_fault(case.camera_id, None)
            self._ended_s[case.name] = time.monotonic()
            if case.only_people_mend_it:
                await self._group.reconnect(self._watched[case.camera_id])
        await starting
        self._note_told(_KILLED)
        self._ended_s[_KILLED.name] = time.monotonic()

    def _note_told(self, case: Case) -> None:
        outcome, caused_s = self._outcomes[case.name], self._caused_s[case.name]
        told = [one for one in self._log.told[case.camera_id] if one.at_s >= caused_s]
        bad = [one for one in told if one.status.state in _TELLS]
        right = [one for one in bad if one.status.error_class == case.error_class]
        outcome.seen_s, outcome.told_s = _after(bad, caused_s), _after(right, caused_s)
        outcome.classes = tuple(dict.fromkeys(one.status.error_class or "" for one in bad))
        outcome.warned_s = _after([one for one in told if case.warning in one.status.warnings], caused_s)
        analysed = self._eye.analysed[case.camera_id] - self._analysed_before_fault[case.camera_id]
        outcome.analysed_per_s = analysed / (time.monotonic() - caused_s)
        outcome.states = frozenset(one.status.state for one in told)
        outcome.was_opening = self._log.state(case.camera_id) in {StreamState.CONNECTING, StreamState.STALLED}
        if case is _RESIZED:
            self._report.new_size_s = self._eye.last_change_s[case.camera_id] - caused_s

    async def _see_it_back(self, case: Case) -> None:
        outcome, ended_s = self._outcomes[case.name], self._ended_s[case.name]
        is_away = self._log.state(case.camera_id) is not StreamState.ACTIVE
        came_back_by_now = self._log.first(case.camera_id, _is_active, since_s=ended_s)
        if is_away or came_back_by_now:
            back = await self._log.wait_until_active(case.camera_id, since_s=ended_s, timeout_s=60)
            outcome.back_s = back.at_s - ended_s
        last = [one.status.retry_in_s for one in self._log.told[case.camera_id] if one.status.retry_in_s is not None]
        outcome.retry_in_s = 0.0 if case.only_people_mend_it else max(last[-2:], default=0.0)

    async def _stop(self) -> None:
        self._note_damage()
        for case in CASES:
            outcome = self._outcomes[case.name]
            outcome.stop_s = await self._group.stop_time_s(self._watched[case.camera_id])

    def _note_damage(self) -> None:
        damaged = {lane.subscription_id: lane.damaged for lane in self._log.reports[-1].lanes}
        for case in CASES:
            self._outcomes[case.name].damaged = damaged[self._watched[case.camera_id]]


def _pictures(film: Path) -> list[NDArray[np.uint8]]:
    scaler = FrameScaler()
    with av.open(str(film)) as container:
        return [scaler.to_bgr(picture, (picture.width, picture.height)) for picture in container.decode(video=0)]


def _is_active(status: StreamStatus) -> bool:
    return status.state is StreamState.ACTIVE


def _after(told: Sequence[Told], since_s: float) -> float | None:
    return told[0].at_s - since_s if told else None


async def _at_once(work: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*work)
