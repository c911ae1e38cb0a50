"""A whole worker while its PostgreSQL and its Redis are away: its cameras do not notice, and a stop is no trouble."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from support.busy_site import (
    frames_in,
    frames_of,
    health,
    promised_records,
    watch,
    write_archive_without_unique_key,
    write_busy_clip,
)
from support.folders import open_folder
from support.freezing import frozen
from support.storage_faults.dead_spools import waiting
from support.storage_faults.private_servers import PrivatePostgresql, PrivateRedis, connected
from support.waiting import wait_until
from support.worker import Client, WorkerProcess
from support.worker import connected as client_of

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

_CAMERAS = 2
_TARGET_FPS = 5
_CALM_S = 6.0
_REMAIN = re.compile(r"(\d+) (?:entries )?for (?:PostgreSQL|Redis)\b")


@dataclass(frozen=True)
class Site:
    worker: WorkerProcess
    client: Client
    cameras: RtspServer


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@asynccontextmanager
async def external_servers(folder: Path) -> AsyncIterator[tuple[PrivatePostgresql, PrivateRedis]]:
    async with PrivatePostgresql(folder / "pg") as postgresql, PrivateRedis(folder / "redis") as redis:
        yield postgresql, redis


@asynccontextmanager
async def site(folder: Path, **settings: str) -> AsyncIterator[Site]:
    """A worker whose cameras are being analysed."""
    write_busy_clip(folder / "clip.mp4")
    write_archive_without_unique_key(folder / "tiny.mpta", target_fps=_TARGET_FPS)
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    worker = await asyncio.to_thread(WorkerProcess, folder / "data", **settings)
    with worker:
        async with RtspServer(same_film(clip, _CAMERAS)) as cameras, client_of(worker.url) as client:
            await watch(client, cameras, folder / "tiny.mpta", liveDetections=True)
            await wait_until(lambda: min(frames_of(client, one) for one in cameras.urls) >= _TARGET_FPS, timeout_s=15)
            yield Site(worker, client, cameras)


def addresses(postgresql: PrivatePostgresql, redis: PrivateRedis) -> dict[str, str]:
    config = postgresql.config()
    return {
        "DATABASE__HOST": config.host,
        "DATABASE__DATABASE": config.database,
        "DATABASE__USER": config.user,
        "DATABASE__AUTO_MIGRATE": "true",
        "REDIS__URL": redis.url(),
    }


async def frames_per_s(site: Site, seconds: float) -> list[float]:
    frames = await asyncio.gather(*(frames_in(site.client, one, seconds) for one in site.cameras.urls))
    return [number / seconds for number in frames]


@pytest.mark.parametrize(
    ("is_frozen", "lasts_s"),
    [(False, 10.0), pytest.param(True, 60.0, marks=pytest.mark.soak)],
    ids=["killed", "frozen"],
)
async def test_cameras_do_not_notice_that_both_servers_are_away(folder: Path, is_frozen: bool, lasts_s: float) -> None:
    async with (
        external_servers(folder) as (postgresql, redis),
        site(folder, **addresses(postgresql, redis)) as running,
    ):
        before = await frames_per_s(running, _CALM_S)
        for server in (postgresql, redis):
            await (server.freeze() if is_frozen else server.kill())
        during = await frames_per_s(running, lasts_s)
        state = await asyncio.to_thread(health, running.worker)
        for server in (postgresql, redis):
            server.thaw() if is_frozen else await server.start()
        await until_nothing_waits(running.worker)
        state_after = await asyncio.to_thread(health, running.worker)
        promised = promised_records(running.client)
        assert await asyncio.to_thread(running.worker.stop) == 0
        rows, images = await stored_records(postgresql, redis)

    print(f"\nframes/s of each camera {before}, with both servers away {during}")  # noqa: T201 - a measurement
    assert all(d >= 0.9 * b for d, b in zip(during, before, strict=True)), f"{during} frames/s, {before} before"
    assert state["status"] == "degraded"
    assert not state["queues"]["postgresql"]["ok"]
    assert not state["queues"]["redis"]["ok"]
    assert state_after["status"] == "ok"
    assert set(rows.values()) == {1}
    assert promised <= rows.keys()
    assert promised <= images


async def until_nothing_waits(worker: WorkerProcess) -> None:
    async def nothing() -> bool:
        queues = (await asyncio.to_thread(health, worker))["queues"]
        return all(queue["ok"] and not queue["records"] and not queue["images"] for queue in queues.values())

    await wait_until(nothing, timeout_s=20)


async def stored_records(postgresql: PrivatePostgresql, redis: PrivateRedis) -> tuple[Counter[str], set[str]]:
    """Return how many rows each record has, and which records have a picture."""
    async with connected(postgresql.config()) as database:
        rows = await database.fetch("SELECT record_id::text FROM tiny_visits")
    async with Redis(unix_socket_path=str(redis.socket)) as client:
        keys: list[Any] = await client.keys("tiny:gate:*")
    return Counter(row[0] for row in rows), {key.decode().split(":")[2] for key in keys}


@pytest.mark.parametrize("is_frozen", [True, False], ids=["frozen", "killed"])
async def test_a_stop_while_both_servers_are_away_is_quick_and_says_what_remains(folder: Path, is_frozen: bool) -> None:
    async with (
        external_servers(folder) as (postgresql, redis),
        site(folder, **addresses(postgresql, redis)) as running,
    ):
        for server in (postgresql, redis):
            await (server.freeze() if is_frozen else server.kill())
        await stop_with_something_waiting(running)


async def test_a_stop_while_the_own_postgresql_hangs_is_quick_and_says_what_remains(folder: Path) -> None:
    async with site(folder) as running:
        components = (await asyncio.to_thread(health, running.worker))["components"]
        with frozen(components["embedded postgresql"]["pid"]):
            await stop_with_something_waiting(running)


async def stop_with_something_waiting(running: Site) -> None:
    worker = running.worker

    async def some_wait() -> bool:
        return bool((await asyncio.to_thread(health, worker))["queues"]["postgresql"]["records"] >= 3)

    await wait_until(some_wait, timeout_s=15)
    began_s = time.monotonic()
    code = await asyncio.to_thread(worker.stop)
    took_s = time.monotonic() - began_s
    told = next(line for line in worker.output if "remain in the spool" in line)

    print(f"\nstopped in {took_s:.1f} s; {told}")  # noqa: T201 - a measurement
    assert code == 0
    assert took_s <= 10, told
    assert sum(map(int, _REMAIN.findall(told))) == sum(waiting(worker.data_dir / "spool.sqlite").values()) >= 3, told
