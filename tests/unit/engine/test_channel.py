import asyncio
import multiprocessing
from typing import Any

import pytest

from detector_worker.core.exceptions import MessageProcessingError, ServiceError
from detector_worker.engine.channel import Channel


class Pair:
    """Two ends of one pipe in one process; `near` asks, `far` answers."""

    def __init__(self) -> None:
        near, far = multiprocessing.Pipe()
        self.events: list[Any] = []
        self.near_closed, self.far_closed = asyncio.Event(), asyncio.Event()
        self.near = Channel(
            near, name="near", answer=self._answer, on_event=self.events.append, on_closed=self.near_closed.set
        )
        self.far = Channel(
            far, name="far", answer=self._answer, on_event=self.events.append, on_closed=self.far_closed.set
        )
        self.near.open()
        self.far.open()

    async def _answer(self, message: Any) -> Any:
        if message == "refuse":
            raise MessageProcessingError("No such camera", where="camera x", mend="Subscribe.", code="not_found")
        if message == "bug":
            raise KeyError("oops")
        if message == "never":
            await asyncio.Event().wait()
        return ("answer to", message)

    async def close(self) -> None:
        self.near.close()
        await asyncio.wait_for(self.far_closed.wait(), 5)


async def test_requests_are_answered_both_ways_and_side_by_side() -> None:
    pair = Pair()
    answers = await asyncio.gather(*(pair.near.request(n) for n in range(50)), pair.far.request("back"))
    await pair.close()

    assert answers == [*(("answer to", n) for n in range(50)), ("answer to", "back")]


async def test_our_errors_cross_the_border_whole() -> None:
    pair = Pair()
    with pytest.raises(MessageProcessingError, match="No such camera") as caught:
        await pair.near.request("refuse")
    with pytest.raises(ServiceError, match="KeyError"):
        await pair.near.request("bug")
    await pair.close()

    assert (caught.value.code, caught.value.mend) == ("not_found", "Subscribe.")


async def test_events_arrive_in_order() -> None:
    pair = Pair()
    for n in range(1000):
        pair.near.notify(n)
    await pair.near.request("after all of them")
    await pair.close()

    assert pair.events == list(range(1000))


async def test_who_waits_for_a_dead_peer_is_told() -> None:
    pair = Pair()
    waiting = asyncio.create_task(pair.near.request("never"))
    await pair.near.request("so that the other one is under way")

    pair.far.close()

    with pytest.raises(ServiceError, match="gone"):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(ServiceError, match="gone"):
        await pair.near.request("again")
    assert pair.near_closed.is_set()
