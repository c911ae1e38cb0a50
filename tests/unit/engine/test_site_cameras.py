import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from support.waiting import wait_until

from detector_worker.core.exceptions import MessageProcessingError, ModelLoadError
from detector_worker.core.singleton_managers import ServiceState, ServiceStateManager
from detector_worker.engine.engine import SessionId, SubscriptionSpec
from detector_worker.engine.site_cameras import SiteCameras

RETRY_S = 0.05


@dataclass
class Engine:
    """Refuses what `refused` names, answers for `slow` archives once `go` is set."""

    held: dict[str, SubscriptionSpec] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refused: dict[str, Exception] = field(default_factory=dict)
    slow: str = ""
    go: asyncio.Event = field(default_factory=asyncio.Event)
    clients: set[str] = field(default_factory=set)

    async def subscribe(self, client_id: str, spec: SubscriptionSpec, *, live_detections: bool = False) -> None:
        self.clients.add(client_id)
        self.asked.append(spec.camera_id)
        if spec.model_url == self.slow:
            await self.go.wait()
        if spec.camera_id in self.refused:
            raise self.refused[spec.camera_id]
        self.held[spec.subscription_id] = spec

    async def unsubscribe(self, client_id: str, subscription_id: str) -> None:
        if subscription_id not in self.held:
            raise MessageProcessingError("Not held", where=subscription_id, mend="Subscribe.", code="not_found")
        del self.held[subscription_id]

    async def cleanup_client_streams(self, client_id: str) -> None: ...

    async def set_session(self, display_id: str, session_id: SessionId | None) -> None: ...

    async def reconnect(self, camera_id: str) -> None: ...

    async def newest_jpeg(self, camera_id: str, *, annotated: bool = False) -> bytes:
        return b""


def spec(camera_id: str, *, path: str = "s", archive: str = "/a.mpta") -> SubscriptionSpec:
    return SubscriptionSpec(f"site;{camera_id}", "site", camera_id, archive, rtsp_url=f"rtsp://h/{path}")


REFUSAL = ModelLoadError("No ZIP", where="archive 'a.mpta'", mend="Pack it.")


@dataclass
class Site:
    cameras: SiteCameras
    engine: Engine
    services: ServiceStateManager

    @property
    def service(self) -> ServiceState | None:
        return self.services.get("site-cameras")


@asynccontextmanager
async def running(engine: Engine | None = None, *, retry_s: float = RETRY_S) -> AsyncIterator[Site]:
    engine, services = engine or Engine(), ServiceStateManager()
    cameras = SiteCameras(engine, services=services, retry_s=retry_s)
    task = asyncio.create_task(cameras.run())
    try:
        yield Site(cameras, engine, services)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_camera_is_held_by_one_client_of_its_own() -> None:
    async with running() as site:
        site.cameras.want(spec("gate"))
        site.cameras.want(spec("yard"))
        await wait_until(lambda: len(site.engine.held) == 2)

    assert site.engine.clients == {"cameras file"}


async def test_what_became_of_each_camera_is_told() -> None:
    async with running() as site:
        first = await site.cameras.put(spec("gate"))
        again = await site.cameras.put(spec("gate"))
        other = await site.cameras.put(spec("gate", path="other"))
        site.engine.refused["gate"] = REFUSAL
        refused = await site.cameras.put(spec("gate", path="third"))
        site.engine.refused.clear()
        back = await site.cameras.put(spec("gate", path="third"))
        gone = await site.cameras.remove("gate")

    told = [one.status for one in (first, again, other, refused, back, gone)]
    assert told == ["started", "unchanged", "replaced", "error", "started", "removed"]
    assert refused.error == str(REFUSAL)
    assert site.engine.held == {}


async def test_a_camera_that_is_refused_stops_no_other_and_is_tried_until_it_works() -> None:
    async with running(Engine(refused={"gate": REFUSAL})) as site:
        site.cameras.want(spec("gate"))
        site.cameras.want(spec("yard"))
        await wait_until(lambda: site.engine.asked.count("gate") >= 3)
        assert site.engine.held.keys() == {"site;yard"}
        assert site.cameras.cameras()["gate"].error == str(REFUSAL)

        site.engine.refused.clear()
        await wait_until(lambda: "site;gate" in site.engine.held)
        await wait_until(lambda: site.cameras.cameras()["gate"].error is None)

    assert site.cameras.cameras()["gate"].retry_in_s is None


async def test_a_refusal_makes_the_worker_degraded_until_it_is_mended() -> None:
    async with running(Engine(refused={"gate": REFUSAL})) as site:
        assert site.service is None
        site.cameras.want(spec("yard"))
        site.cameras.want(spec("gate"))
        await wait_until(lambda: site.service == ServiceState("down", detail="refused, 1 of 2: gate"))

        site.engine.refused.clear()
        await wait_until(lambda: site.service == ServiceState("ok"))
        for camera_id in ("gate", "yard"):
            await site.cameras.remove(camera_id)

    assert site.service is None


async def test_the_next_attempt_is_announced() -> None:
    async with running(Engine(refused={"gate": REFUSAL}), retry_s=30) as site:
        await site.cameras.put(spec("gate"))
        await wait_until(lambda: site.cameras.cameras()["gate"].retry_in_s is not None)
        retry_in_s = site.cameras.cameras()["gate"].retry_in_s

    assert retry_in_s == pytest.approx(26, abs=5)  # 30 s, less up to a quarter


async def test_a_camera_that_is_removed_is_not_tried_again() -> None:
    async with running(Engine(refused={"gate": REFUSAL})) as site:
        await site.cameras.put(spec("gate"))
        await site.cameras.remove("gate")
        site.engine.refused.clear()
        await site.cameras.put(spec("yard"))
        await asyncio.sleep(3 * RETRY_S)

    assert site.engine.asked == ["gate", "yard"]
    assert site.cameras.cameras().keys() == {"yard"}


async def test_only_the_last_wish_for_a_camera_is_tried_again() -> None:
    async with running(Engine(refused={"gate": REFUSAL})) as site:
        await site.cameras.put(spec("gate", path="old"))
        await site.cameras.put(spec("gate", path="new"))
        site.engine.refused.clear()
        await wait_until(lambda: "site;gate" in site.engine.held)
        await asyncio.sleep(3 * RETRY_S)

    assert site.engine.held["site;gate"].url == "rtsp://h/new"


async def test_what_is_refused_after_its_removal_is_nobodys_concern(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Engine(slow="/a.mpta", refused={"gate": REFUSAL})) as site:
        site.cameras.want(spec("gate"))
        await wait_until(lambda: site.engine.asked)
        await site.cameras.remove("gate")
        site.engine.go.set()
        await site.cameras.put(spec("yard"))

    assert site.service == ServiceState("ok")
    assert "refused" not in caplog.text


async def test_a_bug_at_one_camera_is_a_refusal_of_this_one(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Engine(refused={"gate": RuntimeError("a bug")})) as site:
        outcomes = [await site.cameras.put(spec(name)) for name in ("gate", "yard")]

    assert [one.status for one in outcomes] == ["error", "started"]
    assert "RuntimeError: a bug" in caplog.text


async def test_an_archive_that_hangs_holds_up_no_camera_of_another_one() -> None:
    async with running(Engine(slow="/slow.mpta")) as site:
        for number in range(20):
            site.cameras.want(spec(f"slow-{number}", archive="/slow.mpta"))
        outcome = await asyncio.wait_for(site.cameras.put(spec("gate")), 5)
        asked = site.engine.asked.copy()
        assert site.cameras.cameras()["slow-0"].tried is False
        site.engine.go.set()
        await wait_until(lambda: len(site.engine.held) == 21)

    assert outcome.status == "started"
    assert sum(name.startswith("slow") for name in asked) == 4
