import asyncio
import logging
import random
from contextlib import suppress

import pytest
from support.serving import Settings, ask, hear, result, serving, subscription
from support.waiting import wait_until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from detector_worker.communication.connections import ConnectionClosedError, WebSocketConnection
from detector_worker.communication.websocket_handler import ConnectionLimits
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.exceptions import ServiceError


async def test_a_finished_run_is_told_as_the_protocol_says() -> None:
    async with serving() as worker, connect(worker.ws_url) as client:
        await ask(client, "subscribe", subscription())
        worker.handler.on_result(result())

        assert await hear(client) == {
            "type": "imageDetection",
            "payload": {
                "subscriptionId": "desk;gate", "cameraId": "gate", "sequence": 1,
                "timestamp": "2026-01-31T09:26:53.589Z", "frameId": 1042, "recordId": "0198", "sessionId": 17,
                "detections": [
                    {"className": "car", "confidence": 0.93, "trackId": 7,
                     "boundingBox": {"x1": 10.0, "y1": 20.0, "x2": 210.0, "y2": 180.0}}
                ],
                "branches": {"colour": {"colour": "red", "confidence": 0.9}},
                "fields": {"car_colour": "red"}, "status": "completed", "final": True,
                "modelInfo": {"modelId": 102, "modelName": "front", "pipelineId": "front_v1"},
            },
        }  # fmt: skip


async def test_single_frames_go_only_to_those_who_asked_and_carry_no_sequence() -> None:
    async with serving() as worker, connect(worker.ws_url) as live, connect(worker.ws_url) as still:
        await ask(live, "subscribe", subscription(liveDetections=True))
        await ask(still, "subscribe", subscription())
        worker.handler.on_result(result(final=False, record_id=None))
        worker.handler.on_result(result())

        frame = (await hear(live))["payload"]
        assert (frame["final"], "sequence" in frame, frame["recordId"]) == (False, False, None)
        assert (await hear(live))["payload"]["final"]
        assert (await hear(still))["payload"]["final"]


async def test_every_watcher_sees_its_subscriptions_results_in_order_and_no_others() -> None:
    rng = random.Random(7)

    async def slow_numbers(subscription_id: str) -> int:
        await asyncio.sleep(rng.random() / 100)
        counts[subscription_id] = counts.get(subscription_id, 0) + 1
        return counts[subscription_id]

    counts: dict[str, int] = {}
    async with (
        serving(Settings(next_sequence=slow_numbers)) as worker,
        connect(worker.ws_url) as one,
        connect(worker.ws_url) as two,
        connect(worker.ws_url) as other,
    ):
        for client, name in ((one, "desk;gate"), (two, "desk;gate"), (other, "desk;yard")):
            await ask(client, "subscribe", subscription(name))
        for number in range(40):
            worker.handler.on_result(result(frame_id=number))
            worker.handler.on_result(result(subscription_id="desk;yard", frame_id=number))
            await asyncio.sleep(0)

        for client, name in ((one, "desk;gate"), (two, "desk;gate"), (other, "desk;yard")):
            seen = [(await hear(client))["payload"] for _ in range(40)]
            assert [(each["sequence"], each["frameId"]) for each in seen] == [(n + 1, n) for n in range(40)]
            assert {each["subscriptionId"] for each in seen} == {name}


async def test_a_spool_that_fails_costs_the_number_but_not_the_result() -> None:
    async def no_number(_: str) -> int:
        raise ServiceError("The disk is full", where="spool", mend="Make room.")

    async with serving(Settings(next_sequence=no_number)) as worker, connect(worker.ws_url) as client:
        await ask(client, "subscribe", subscription())
        worker.handler.on_result(result())

        assert "sequence" not in (await hear(client))["payload"]


async def test_a_cameras_change_is_told_to_its_watchers() -> None:
    async with serving() as worker, connect(worker.ws_url) as client, connect(worker.ws_url) as stranger:
        await ask(client, "subscribe", subscription())
        worker.handler.on_stream_status(("desk;gate", "wall;gate"), StreamStatus("gate", StreamState.ACTIVE))

        assert (await hear(client))["payload"]["state"] == "active"
        assert (await ask(stranger, "requestState"))["type"] == "stateReport"


async def test_every_client_gets_a_state_report_at_each_heartbeat() -> None:
    async with serving(Settings(heartbeat_interval_s=0.1)) as worker, connect(worker.ws_url) as client:
        reports = [await hear(client) for _ in range(3)]

    assert {report["type"] for report in reports} == {"stateReport"}
    assert reports[0]["payload"]["uptimeSeconds"] < reports[2]["payload"]["uptimeSeconds"]


async def test_a_client_that_does_not_read_is_dropped_and_the_others_do_not_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = ConnectionLimits(messages_per_second=10_000, queue_size=50, send_timeout_s=0.5)
    async with serving(Settings(limits=limits)) as worker, connect(worker.ws_url) as reading:
        stuck = await connect(worker.ws_url, max_queue=1)
        for client in (reading, stuck):
            await ask(client, "subscribe", subscription())
        stuck.transport.pause_reading()
        with caplog.at_level(logging.WARNING):
            for number in range(400):  # 40 MB: more than any kernel buffer
                worker.handler.on_result(result(frame_id=number, fields={"pad": "x" * 100_000}))
                assert (await hear(reading))["payload"]["frameId"] == number
            await wait_until(lambda: len(worker.connections) == 1)
        stuck.transport.abort()

    assert "too slowly" in caplog.text


async def test_a_client_that_is_too_slow_learns_it_by_1013() -> None:
    limits = ConnectionLimits(messages_per_second=10_000, queue_size=50, send_timeout_s=10)
    async with serving(Settings(limits=limits)) as worker:
        slow = await connect(worker.ws_url, max_queue=1)
        await ask(slow, "subscribe", subscription())
        slow.transport.pause_reading()
        for number in range(400):
            worker.handler.on_result(result(frame_id=number, fields={"pad": "x" * 100_000}))
            await asyncio.sleep(0.001)
        slow.transport.resume_reading()
        frames = []
        with suppress(ConnectionClosed):
            while True:
                frames.append((await hear(slow))["payload"]["frameId"])

    assert slow.close_code == 1013
    assert frames == list(range(len(frames)))


class _Wire:
    """A socket that hands over one message at a time, when it is told to."""

    def __init__(self) -> None:
        self.scope: dict[str, object] = {}
        self.sent: list[str] = []
        self.may_send = asyncio.Event()
        self.closed: tuple[int, str] | None = None

    async def send_text(self, text: str) -> None:
        await self.may_send.wait()
        self.sent.append(text)

    async def close(self, code: int, reason: str) -> None:
        self.closed = code, reason


async def sent_by(connection: WebSocketConnection, wire: _Wire) -> list[str]:
    connection.close(1000, "")
    wire.may_send.set()
    with pytest.raises(ConnectionClosedError):
        await connection.run_sender()
    return wire.sent


async def test_of_per_frame_messages_only_the_newest_waits_and_it_overtakes_nothing() -> None:
    wire = _Wire()
    connection = WebSocketConnection(wire, client_id="c", queue_size=3)  # type: ignore[arg-type] # our own wire
    for number in range(100):
        connection.send_message(f"frame {number}", replaces="a")
    connection.send_message("result")
    connection.send_message("frame 100", replaces="a")
    connection.send_message("other frame", replaces="b")

    assert await sent_by(connection, wire) == ["result", "frame 100", "other frame"]


async def test_results_push_per_frame_messages_out_but_not_the_reverse() -> None:
    wire = _Wire()
    connection = WebSocketConnection(wire, client_id="c", queue_size=2)  # type: ignore[arg-type] # our own wire
    connection.send_message("frame", replaces="a")
    connection.send_message("result 1")
    connection.send_message("result 2")
    connection.send_message("another frame", replaces="b")

    assert await sent_by(connection, wire) == ["result 1", "result 2"]


async def test_a_queue_full_of_results_closes_with_1013() -> None:
    wire = _Wire()
    connection = WebSocketConnection(wire, client_id="c", queue_size=2)  # type: ignore[arg-type] # our own wire
    for number in range(3):
        connection.send_message(f"result {number}")

    assert await sent_by(connection, wire) == []
    assert wire.closed == (1013, "The client reads too slowly.")
