import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import orjson
import pytest
from support.serving import Settings, Worker, ask, error_of, hear, serving, subscription
from support.waiting import wait_until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from detector_worker.communication.websocket_handler import ConnectionLimits
from detector_worker.core import exceptions
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.singleton_managers import CameraConnection, ModelState, QueueState


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with serving() as running:
        yield running


@pytest.fixture
async def client(worker: Worker) -> AsyncIterator[ClientConnection]:
    async with connect(worker.ws_url) as connected:
        yield connected


async def test_subscribe_reaches_the_engine_in_its_own_words(worker: Worker, client: ClientConnection) -> None:
    payload = subscription(
        snapshotUrl="http://10.0.0.7/snap",
        snapshotInterval=500,
        targetFps=2.5,
        modelId=102,
        modelName="front",
        cropX1=-5,
        cropY1=0,
        cropX2=640,
        cropY2=480,
        options={"transport": "udp", "minSize": 24, "ignoreMasks": [[0, 0, 9, 9]]},
        liveDetections=True,
        laterInvention={"x": 1},
    )

    reply = await ask(client, "subscribe", payload, requestId="r-1")

    assert reply == {
        "type": "subscribeAck", "status": "success", "requestId": "r-1", "subscriptionId": "desk;gate",
    }  # fmt: skip
    ((spec, live),) = worker.engine.held.values()
    assert live
    assert (spec.display_id, spec.camera_id, spec.crop) == ("desk", "gate", (0, 0, 640, 480))
    assert (spec.snapshot_interval_s, spec.target_fps, spec.model_id) == (0.5, 2.5, 102)
    assert spec.rtsp_url == "rtsp://admin:Kanarienvogel@10.0.0.7/stream"
    assert (spec.options.transport, spec.options.min_size_px) == ("udp", 24)


async def test_a_message_beyond_all_measure_closes_the_connection(worker: Worker) -> None:
    async with connect(worker.ws_url) as client:
        with suppress(ConnectionClosed):  # it may come while we still send
            await client.send("x" * 5_000_000)
        await client.wait_closed()

    assert client.close_code == 1009


REFUSALS_OF_THE_ENGINE: tuple[tuple[Exception, str], ...] = (
    (exceptions.ModelLoadError("No ZIP", where="front.mpta", mend="Pack it."), "archive_invalid"),
    (exceptions.ArchiveDownloadError("404", where="front.mpta", mend="Look."), "download_failed"),
    (exceptions.PipelineError("No class", where="front.mpta", mend="Name it."), "archive_invalid"),
    (exceptions.ModelCacheError("Too big", where="front.mpta", mend="Less."), "limit_exceeded"),
    (exceptions.MessageProcessingError("404", where="u", mend="m", code="download_failed"), "download_failed"),
    (exceptions.MessageProcessingError("odd", where="u", mend="m", code="from_the_future"), "internal"),
    (exceptions.ServiceError("No group", where="engine", mend="Wait."), "internal"),
    (RuntimeError("a secret of the inside"), "internal"),
)


async def test_the_engines_refusal_becomes_a_code(worker: Worker, client: ClientConnection) -> None:
    for error, code in REFUSALS_OF_THE_ENGINE:
        worker.engine.fail_with = error

        reply = await ask(client, "subscribe", subscription())

        assert (reply["type"], error_of(reply)[0]) == ("subscribeAck", code), error
        assert "secret" not in str(reply)


async def test_unsubscribe_lets_go_once(worker: Worker, client: ClientConnection) -> None:
    await ask(client, "subscribe", subscription())

    first = await ask(client, "unsubscribe", {"subscriptionIdentifier": "desk;gate"})
    second = await ask(client, "unsubscribe", {"subscriptionIdentifier": "desk;gate"})

    assert first == {"type": "unsubscribeAck", "status": "success", "subscriptionId": "desk;gate"}
    assert error_of(second)[0] == "not_found"
    assert not worker.engine.held


async def test_state_report_shows_the_read_model(worker: Worker, client: ClientConnection) -> None:
    worker.cameras.set(
        "desk;gate",
        CameraConnection(
            "desk;gate", "gate", "rtsp://***@10.0.0.7/stream", "active", 102, "front", (0, 1, 2, 3), 25.0, 5.0, 20.0,
            12.5, 30.0, 1, 2, 7, "refused", ("blind",), "group-0",
        ),
    )  # fmt: skip
    worker.models.set("yolo", ModelState("ready", 1000))
    worker.models.set("other", ModelState("loading"))
    worker.queues.set("postgresql", QueueState(ok=True, records=3, dead_letters=1))
    worker.queues.set("redis", QueueState(ok=False, images=2, reason="refused"))

    reply = await ask(client, "requestState", {}, requestId="s")

    assert (reply["type"], reply["status"], reply["requestId"]) == ("stateReport", "success", "s")
    report = reply["payload"]
    assert report["cameraConnections"] == [
        {
            "subscriptionIdentifier": "desk;gate", "modelId": 102, "modelName": "front",
            "cropX1": 0, "cropY1": 1, "cropX2": 2, "cropY2": 3, "url": "rtsp://***@10.0.0.7/stream",
            "state": "active", "fpsIn": 25.0, "fpsAnalysed": 5.0, "fpsDropped": 20.0, "latencyP50Ms": 12.5,
            "latencyP95Ms": 30.0, "errors": 1, "reconnects": 2, "damaged": 7,
            "errorClass": "refused", "warnings": ["blind"], "group": "group-0",
        }
    ]  # fmt: skip
    assert report["models"] == [{"modelId": "yolo", "memoryBytes": 1000}]
    assert report["queues"] == {"records": 3, "images": 2, "deadLetters": 1}
    assert report["clients"] == 1
    assert report["gpuUsage"] is None
    assert 0 <= report["cpuUsage"] <= 100
    assert report["memoryUsage"] > 0


async def test_a_new_watcher_is_told_how_the_camera_is(worker: Worker, client: ClientConnection) -> None:
    worker.streams.set(
        "gate", StreamStatus("gate", StreamState.ERROR, "refused", 3, 4.5, "FFmpeg: refused", ("fallback",))
    )

    await ask(client, "subscribe", subscription())

    assert await hear(client) == {
        "type": "streamStatus",
        "payload": {
            "subscriptionId": "desk;gate", "cameraId": "gate", "state": "error", "errorClass": "refused",
            "attempt": 3, "retryInSeconds": 4.5, "reason": "FFmpeg: refused", "warnings": ["fallback"],
        },
    }  # fmt: skip


async def test_one_connection_holds_a_bounded_number_of_subscriptions() -> None:
    async with serving(Settings(max_subscriptions=1)) as worker, connect(worker.ws_url) as client:
        await ask(client, "subscribe", subscription())

        assert error_of(await ask(client, "subscribe", subscription("desk;yard")))[0] == "limit_exceeded"
        assert (await ask(client, "subscribe", subscription()))["status"] == "success"


async def test_a_flood_is_answered_with_rate_limited() -> None:
    settings = Settings(limits=ConnectionLimits(messages_per_second=2.0))
    async with serving(settings) as worker, connect(worker.ws_url) as client:
        for number in range(8):
            await client.send(f'{{"type": "setSessionId", "requestId": {number}, "payload": {{}}}}')
        replies = [await hear(client) for _ in range(8)]

    assert [reply["requestId"] for reply in replies] == list(range(8))
    assert [error_of(reply)[0] for reply in replies[4:]] == ["rate_limited"] * 4


async def test_a_client_that_leaves_is_forgotten_and_the_engine_told(worker: Worker) -> None:
    async with connect(worker.ws_url) as client:
        await ask(client, "subscribe", subscription())
        ((client_id, _),) = worker.engine.held

    async with asyncio.timeout(5):
        await worker.engine.somebody_left.wait()
    assert worker.engine.left == [client_id]
    assert len(worker.connections) == 0


async def test_a_client_that_vanishes_without_a_word_is_forgotten(worker: Worker) -> None:
    client = await connect(worker.ws_url)
    await ask(client, "requestState")
    client.transport.abort()

    async with asyncio.timeout(5):
        await worker.engine.somebody_left.wait()
    assert len(worker.connections) == 0


async def test_shutting_down_says_goodbye_and_lets_nobody_in() -> None:
    async with serving() as worker, connect(worker.ws_url) as client:
        await ask(client, "requestState")
        await worker.handler.shut_down(grace_s=2)

        await client.wait_closed()
        assert client.close_code == 1001
        with pytest.raises(InvalidStatus) as caught:
            await connect(worker.ws_url)
        assert caught.value.response.status_code == 503


async def test_while_a_last_request_is_finished_others_are_answered_with_shutting_down() -> None:
    async with serving() as worker, connect(worker.ws_url) as busy, connect(worker.ws_url) as late:
        worker.engine.waiting = asyncio.Event()
        await busy.send(orjson.dumps({"type": "subscribe", "payload": subscription()}).decode())
        await wait_until(lambda: worker.engine.asked)
        leaving = asyncio.create_task(worker.handler.shut_down(grace_s=4))
        await asyncio.sleep(0)

        assert error_of(await ask(late, "requestState"))[0] == "shutting_down"
        worker.engine.waiting.set()
        assert (await hear(busy))["status"] == "success"
        await leaving
