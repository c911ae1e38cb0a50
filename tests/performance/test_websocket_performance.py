"""How many messages a second the worker hands to many clients; measured and printed, never judged by the clock."""

import asyncio
import time

import pytest
from support.serving import Settings, ask, hear, result, serving, subscription
from websockets.asyncio.client import ClientConnection, connect

from detector_worker.communication.websocket_handler import ConnectionLimits

CLIENTS = 20
RESULTS = 200

pytestmark = pytest.mark.performance


async def test_fan_out(capsys: pytest.CaptureFixture[str]) -> None:
    limits = ConnectionLimits(messages_per_second=10_000, queue_size=RESULTS + 10)
    async with serving(Settings(limits=limits)) as worker, asyncio.TaskGroup() as group:
        clients = [await connect(worker.ws_url, compression=None) for _ in range(CLIENTS)]
        for client in clients:
            await ask(client, "subscribe", subscription())
        started_s = time.perf_counter()
        counting = [group.create_task(count_results(client)) for client in clients]
        for number in range(RESULTS):
            worker.handler.on_result(result(frame_id=number))
        counts = await asyncio.gather(*counting)
        seconds = time.perf_counter() - started_s
        for client in clients:
            await client.close()

    assert counts == [RESULTS] * CLIENTS
    with capsys.disabled():
        print(f"\n{CLIENTS} clients in the same process: {CLIENTS * RESULTS / seconds:,.0f} messages/s delivered")  # noqa: T201 - a measurement


async def count_results(client: ClientConnection) -> int:
    """Return how many arrived, each the next one."""
    for sequence in range(1, RESULTS + 1):
        assert (await hear(client))["payload"]["sequence"] == sequence
    return RESULTS
