import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any, cast

import pytest
from support.waiting import wait_until

from detector_worker.core.exceptions import MessageProcessingError, ServiceError
from detector_worker.engine.channel import Channel


class Far:
    """What the peer calls."""

    def __init__(self) -> None:
        self.told: list[int] = []

    async def echo(self, value: Any, *, twice: bool = False) -> Any:
        return [value, value] if twice else value

    async def refuse(self) -> None:
        raise MessageProcessingError("No such camera", where="camera x", mend="Subscribe.", code="not_found")

    async def stumble(self) -> None:
        raise KeyError("oops")

    async def hang(self) -> None:
        await asyncio.Event().wait()

    def note(self, value: int) -> None:
        self.told.append(value)


class Pair:
    """Two ends of one pipe in one process."""

    def __init__(self) -> None:
        near, far = multiprocessing.Pipe()
        self.target = Far()
        self.near_closed, self.far_closed = asyncio.Event(), asyncio.Event()
        self.near = Channel(near, name="near", target=self.target, on_closed=self.near_closed.set)
        self.far = Channel(far, name="far", target=self.target, on_closed=self.far_closed.set)
        self.near.open()
        self.far.open()

    async def close(self) -> None:
        self.near.close()
        await asyncio.wait_for(self.far_closed.wait(), 5)


async def test_calls_are_answered_both_ways_and_side_by_side() -> None:
    pair = Pair()
    answers = await asyncio.gather(
        *(pair.near.call(Far.echo, n) for n in range(50)), pair.far.call(Far.echo, "back", twice=True)
    )
    await pair.close()

    assert answers == [*range(50), ["back", "back"]]


async def test_our_errors_cross_the_border_whole() -> None:
    pair = Pair()
    with pytest.raises(MessageProcessingError, match="No such camera") as caught:
        await pair.near.call(Far.refuse)
    with pytest.raises(ServiceError, match="stumble: KeyError"):
        await pair.near.call(Far.stumble)
    await pair.close()

    assert (caught.value.code, caught.value.mend) == ("not_found", "Subscribe.")


async def test_what_is_told_arrives_in_order() -> None:
    pair = Pair()
    for n in range(1000):
        pair.near.tell(Far.note, n)
    await pair.near.call(Far.echo, "after all of them")
    await pair.close()

    assert pair.target.told == list(range(1000))


async def test_who_waits_for_a_dead_peer_is_told() -> None:
    pair = Pair()
    waiting = asyncio.create_task(pair.near.call(Far.hang))
    await pair.near.call(Far.echo, "so that the other one is under way")

    pair.far.close()

    with pytest.raises(ServiceError, match="gone"):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(ServiceError, match="gone"):
        await pair.near.call(Far.echo, "again")
    assert pair.near_closed.is_set()


class SlowConnection:
    """One end of a pipe whose writing takes its time; notes what became of it."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self.connection, self.happened = connection, list[str]()
        self.recv = connection.recv

    def send(self, item: object) -> None:
        time.sleep(0.2)
        self.connection.send(item)
        self.happened.append("sent")

    def close(self) -> None:
        self.happened.append("closed")
        self.connection.close()


async def test_a_pipe_is_closed_only_after_its_last_word_is_written() -> None:
    """Else the word might go to whoever has been given the descriptor's number meanwhile."""
    near, far = multiprocessing.Pipe()
    slow = SlowConnection(far)
    channel = Channel(cast("Connection[Any, Any]", slow), name="far", target=Far(), on_closed=lambda: None)
    channel.open()
    near.send(None)  # the other end says good-bye

    await wait_until(lambda: "closed" in slow.happened)

    assert slow.happened == ["sent", "closed"]
    near.close()
