"""Many cameras of one group, each with a fault of its own at the same moment, beside cameras that are sound."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray
from support.camera_process import CameraProcess
from support.fault_cases import (
    CASES,
    CORRUPT,
    HTTP,
    KILLED,
    PASSWORD,
    RESIZED,
    RTSP,
    SOUND,
    STOOD_IN_FOR,
    TARGET_FPS,
    Case,
    Outcome,
    Report,
)
from support.tiny_clip import Square, read_frame_number, write_tiny_clip
from support.tiny_models import write_tiny_mpta
from support.waiting import wait_until
from support.watched_group import GroupLog, Told, WatchedGroup, collected_logs, watched_group

from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.frame import Frame, FrameScaler
from detector_worker.engine.lane import Analysed
from detector_worker.simulator.faults import Fault

__all__ = ["run_fault_matrix"]

_SNAPSHOT_INTERVAL_S: Final = 0.2
_FPS: Final = 20
_SPARE_AFTER_S: Final = 1.0
_SPARE_LIVES_S: Final = 4.0
_FAULTS_LAST_S: Final = 12.0
_WH: Final = (320, 192)
_OTHER_WH: Final = (640, 384)
_DENSE_WH: Final = (1280, 720)
_TELLS: Final = frozenset({StreamState.STALLED, StreamState.ERROR, StreamState.FAILED})
_STAND_IN: Final = "stand-in"


async def run_fault_matrix(folder: Path, *, calm_s: float) -> Report:
    """Run it once.

    Args:
        folder: For films, archive and data.
        calm_s: How long the cameras are watched before anything happens.
    """
    films = await asyncio.to_thread(_Films, folder)
    report, eye = Report(calm_s=calm_s), _Eye(films)
    login = ("viewer", PASSWORD)
    rtsp = {case.camera_id: films.of(case) for case in RTSP}
    async with AsyncExitStack() as stack:
        logs = stack.enter_context(collected_logs())
        snapshots = dict.fromkeys([_STAND_IN, *(case.camera_id for case in HTTP)], films.plain)
        faulty = CameraProcess(rtsp, snapshots=snapshots, login=login)
        doomed = CameraProcess({KILLED.camera_id: films.plain}, login=login)
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
        self.archive = write_tiny_mpta(folder / "tiny.mpta", detector_hw=(192, 320), motion={"enabled": False})
        for path, wh, gop in ((self.plain, _WH, 10), (self.other, _OTHER_WH, 10), (self.dense, _DENSE_WH, 4)):
            write_tiny_clip(path, squares=squares, wh=wh, fps=_FPS, seconds=2.0, gop=gop)
        self._truths = {CORRUPT.camera_id: [_pictures(self.dense)]}
        self._truths[RESIZED.camera_id] = [_pictures(self.plain), _pictures(self.other)]

    def of(self, case: Case) -> Path:
        return self.dense if case is CORRUPT else self.plain

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
        if case is CORRUPT:
            rest["target_fps"] = float(_FPS)  # every picture is compared
        if case is STOOD_IN_FOR:
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
        return (self._doomed if case is KILLED else self._faulty).url(case.camera_id) + case.suffix

    def _rates(self, before: Counter[str], began_s: float) -> dict[str, float]:
        seconds = time.monotonic() - began_s
        return {name: (self._eye.analysed[name] - before[name]) / seconds for name in SOUND}

    async def _cause(self, case: Case) -> None:
        self._caused_s[case.name] = time.monotonic()
        if case is KILLED:
            await self._doomed.kill()
        elif case is RESIZED:
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
            if case is KILLED:
                continue
            self._note_told(case)
            if case is RESIZED:
                await self._faulty.switch_clip(case.camera_id, self._films.plain)
            else:
                await self._faulty.set_fault(case.camera_id, None)
            self._ended_s[case.name] = time.monotonic()
            if case.only_people_mend_it:
                await self._group.reconnect(case.camera_id)
        await starting
        self._note_told(KILLED)
        self._ended_s[KILLED.name] = time.monotonic()

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
        if case is RESIZED:
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
