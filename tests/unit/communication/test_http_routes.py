from typing import Literal

import aiohttp
from support.serving import Settings, Worker, serving

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.singleton_managers import CameraConnection, QueueState, ServiceState


async def get(worker: Worker, path: str, **headers: str) -> tuple[int, str, bytes]:
    async with aiohttp.ClientSession() as http, http.get(worker.http_url + path, headers=headers) as answer:
        return answer.status, answer.content_type, await answer.read()


async def health(worker: Worker) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(worker.http_url + "/health") as answer:
        return answer.status, (await answer.json())["status"]


async def test_the_newest_picture_of_a_camera() -> None:
    async with serving() as worker:
        worker.engine.pictures = {"gate": b"\xff\xd8jpeg", "yard/1": b"\xff\xd8other", "dark": None}

        assert await get(worker, "/camera/gate/image") == (200, "image/jpeg", b"\xff\xd8jpeg")
        assert await get(worker, "/camera/yard%2F1/image") == (200, "image/jpeg", b"\xff\xd8other")
        status, _, body = await get(worker, "/camera/dark/image")
        assert (status, b"No frame yet" in body) == (503, True)
        assert (await get(worker, "/camera/nowhere/image"))[0] == 404


async def test_the_newest_analysed_picture_of_a_camera_with_what_was_seen() -> None:
    async with serving() as worker:
        worker.engine.pictures = {"gate": b"plain", "dark": b"plain", "starting": b"plain"}
        worker.engine.annotated = {"gate": b"drawn", "dark": None}

        assert await get(worker, "/camera/gate/image?annotated=true") == (200, "image/jpeg", b"drawn")
        assert await get(worker, "/camera/gate/image?annotated=false") == (200, "image/jpeg", b"plain")
        assert (await get(worker, "/camera/dark/image?annotated=true"))[0] == 503
        assert (await get(worker, "/camera/nowhere/image?annotated=true"))[0] == 404


async def test_a_picture_of_a_group_that_is_being_started_is_503() -> None:
    async with serving() as worker:
        worker.engine.pictures = {"gate": ServiceError("The group is being started", where="group-1", mend="Wait.")}

        status, _, body = await get(worker, "/camera/gate/image")
        assert (status, b"being started" in body) == (503, True)


async def test_pictures_need_the_token_and_health_shows_only_the_status_without() -> None:
    async with serving(Settings(tokens=("Kanarienvogel",))) as worker:
        worker.engine.pictures = {"gate": b"\xff\xd8"}

        assert (await get(worker, "/camera/gate/image"))[0] == 401
        assert (await get(worker, "/camera/gate/image", Authorization="Bearer Kanarienvogel"))[0] == 200
        assert (await get(worker, "/camera/gate/image", Origin="https://evil.example"))[0] == 403
        assert await get(worker, "/health") == (200, "application/json", b'{"status":"ok"}')
        assert b"4711" in (await get(worker, "/health", Authorization="Bearer Kanarienvogel"))[2]


async def test_health_tells_every_component_and_the_groups_pids() -> None:
    async with serving() as worker, aiohttp.ClientSession() as http:
        worker.queues.set("redis", QueueState(ok=True, images=3))
        worker.cameras.set(
            "desk;gate", CameraConnection("desk;gate", "gate", "rtsp://gate/", "active", group="group-0")
        )
        async with http.get(worker.http_url + "/health") as answer:
            content = await answer.json()

    assert content["components"]["group-0"] == {"state": "ok", "detail": None, "pid": 4711}
    assert content["queues"]["redis"]["images"] == 3
    assert content["cameras"]["desk;gate"]["group"] == "group-0"


async def test_health_is_503_only_while_no_camera_can_be_analysed() -> None:
    table: list[tuple[dict[str, Literal["ok", "starting", "down"]], bool, tuple[int, str]]] = [
        ({"group-0": "ok", "postgresql": "ok"}, True, (200, "ok")),
        ({"group-0": "ok", "postgresql": "down"}, True, (200, "degraded")),
        ({"group-0": "ok", "group-1": "starting"}, True, (200, "degraded")),
        ({"group-0": "ok"}, False, (200, "degraded")),
        ({"group-0": "starting", "group-1": "down"}, True, (503, "failed")),
        ({"group-0": "starting"}, True, (503, "starting")),
        ({}, True, (503, "starting")),
    ]
    async with serving() as worker:
        for services, queue, expected in table:
            for name in worker.services.snapshot():
                worker.services.remove(name)
            for name, state in services.items():
                worker.services.set(name, ServiceState(state))
            worker.queues.set("postgresql", QueueState(ok=queue))

            assert await health(worker) == expected


async def _post(worker: Worker, path: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as http, http.post(worker.http_url + path, headers=headers) as answer:
        return answer.status


async def test_a_camera_is_connected_anew_for_whoever_may_ask() -> None:
    async with serving(Settings(tokens=("Kanarienvogel",))) as worker:
        worker.engine.pictures = {"yard/1": b""}

        assert await _post(worker, "/camera/yard%2F1/reconnect") == 401
        assert await _post(worker, "/camera/yard%2F1/reconnect", Authorization="Bearer Kanarienvogel") == 204
        assert await _post(worker, "/camera/nowhere/reconnect", Authorization="Bearer Kanarienvogel") == 404
        assert worker.engine.reconnected == ["yard/1"]


async def test_metrics_are_for_whoever_may_ask() -> None:
    async with serving(Settings(tokens=("Kanarienvogel",))) as worker:
        assert (await get(worker, "/metrics"))[0] == 401
        status, kind, body = await get(worker, "/metrics", Authorization="Bearer Kanarienvogel")
        assert (status, kind) == (200, "text/plain")
        assert b'detector_worker_service_up{service="group-0"} 1.0' in body
