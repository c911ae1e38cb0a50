"""When a changed archive is taken, and when it is tried again after it was refused."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.engine.archive_watch import ArchiveWatch
from detector_worker.engine.lane import Lane

URL = "https://models.example/gate.mpta"


class Site:
    """An address with whatever the test puts there, and lanes that take it."""

    def __init__(self, *, cameras: int = 1) -> None:
        self.holds = "old"
        self.answers = True
        self.broken: set[str] = set()
        self.odd: set[str] = set()
        """Cameras that can take no other archive."""
        self.asked = 0
        self.tries: list[str] = []
        self.lanes = {str(number): self._lane("old", str(number)) for number in range(cameras)}

    async def current_sha256(self, url: str) -> str:
        self.asked += 1
        if not self.answers:
            raise ModelLoadError("The server is away", where=url, mend="Wait.")
        return self.holds

    async def exchange(self, lane: Lane) -> None:
        self.tries.append(self.holds)
        if self.holds in self.broken or lane.spec.camera_id in self.odd:
            raise ModelLoadError("It is broken", where=URL, mend="Mend it.")
        lane.loaded.sha256 = self.holds

    @property
    def in_use(self) -> set[str]:
        return {lane.loaded.sha256 for lane in self.lanes.values()}

    async def look(self, watch: ArchiveWatch, times: int = 1) -> None:
        for _ in range(times):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.03):
                    await watch.watch(self.lanes, every_s=0.02)

    def watch(self) -> ArchiveWatch:
        return ArchiveWatch(cast("Any", self), self.exchange)

    @staticmethod
    def _lane(sha256: str, camera_id: str, url: str = "rtsp://camera/") -> Lane:
        lane = SimpleNamespace(
            spec=SimpleNamespace(model_url=URL, url=url, camera_id=camera_id),
            loaded=SimpleNamespace(sha256=sha256),
            pipeline=SimpleNamespace(model_id="gate_v1"),
        )
        return cast("Lane", lane)


@contextmanager
def counted(caplog: pytest.LogCaptureFixture, text: str) -> Iterator[list[int]]:
    counts: list[int] = []
    yield counts
    counts.append(caplog.text.count(text))


async def test_what_has_not_changed_is_left_alone() -> None:
    site = Site()

    await site.look(site.watch(), 2)

    assert site.tries == []


async def test_every_camera_goes_on_with_the_new_one() -> None:
    site = Site(cameras=3)
    site.holds = "new"

    await site.look(site.watch())

    assert site.in_use == {"new"}
    assert site.tries == ["new"] * 3


async def test_a_broken_one_is_refused_told_once_and_tried_ever_more_seldom(caplog: pytest.LogCaptureFixture) -> None:
    site, watch = Site(), None
    watch = site.watch()
    site.holds, site.broken = "bad", {"bad"}

    with counted(caplog, "is not exchanged") as told:
        await site.look(watch, 9)

    assert site.in_use == {"old"}
    assert len(site.tries) == 5, "at the looks 0, 1, 2, 4 and 8"
    assert told == [1]


async def test_the_next_one_after_a_broken_one_is_taken_at_once() -> None:
    site = Site()
    watch = site.watch()
    site.holds, site.broken = "bad", {"bad"}
    await site.look(watch, 4)

    site.holds = "good"
    await site.look(watch)

    assert site.in_use == {"good"}


async def test_a_server_that_is_away_changes_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    watch = site.watch()
    site.answers = False

    with counted(caplog, "The server is away") as told:
        await site.look(watch, 3)
    site.answers, site.holds = True, "new"
    await site.look(watch, 2)

    assert told == [1]
    assert site.in_use == {"new"}


async def test_a_camera_that_cannot_take_it_keeps_no_other_from_it() -> None:
    site = Site(cameras=3)
    site.holds, site.odd = "new", {"0"}

    await site.look(site.watch())

    assert [lane.loaded.sha256 for lane in site.lanes.values()] == ["old", "new", "new"]


async def test_an_address_that_gives_nothing_is_asked_ever_more_seldom() -> None:
    site = Site()
    watch = site.watch()
    site.answers = False

    await site.look(watch, 9)

    assert site.asked == 5, "at the looks 0, 1, 2, 4 and 8"


async def test_the_lane_of_a_file_keeps_its_archive() -> None:
    site = Site()
    site.lanes = {"file": site._lane("old", "file", url="")}
    site.holds = "new"

    await site.look(site.watch())

    assert site.in_use == {"old"}


async def test_an_address_that_is_slow_keeps_no_other_waiting() -> None:
    slow = asyncio.Event()

    class TwoSites(Site):
        async def current_sha256(self, url: str) -> str:
            if url == URL:
                await slow.wait()
            return await super().current_sha256(url)

    site = TwoSites()
    site.lanes["fast"] = site._lane("old", "fast")
    cast("Any", site.lanes["fast"].spec).model_url = "https://other.example/"

    with suppress(TimeoutError):
        async with asyncio.timeout(0.15):
            await site.watch().watch(site.lanes, every_s=0.02)

    assert site.asked >= 3
