"""Publications once and never late, and listeners that outlive their server."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress

import psutil
import pytest
from support.freezing import frozen
from support.redis_fronts import front
from support.redis_servers import hearing, url_of
from support.spooling import image, publication
from support.waiting import wait_until

from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import RedisError
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.faults import TransientRedisError
from detector_worker.storage.redis_client import RedisClient, RedisPublisher, RedisSubscriber
from detector_worker.storage.sinks import RedisSink

PING_AFTER_S = REPLY_S = 0.4


@pytest.fixture
async def client(private: EmbeddedServers) -> AsyncIterator[RedisClient]:
    async with RedisClient(url_of(private)) as client:
        yield client
        await client.pipeline([("FLUSHALL",)])


@pytest.fixture
async def impatient(private: EmbeddedServers) -> AsyncIterator[RedisClient]:
    async with RedisClient(url_of(private), connect_s=REPLY_S, reply_s=REPLY_S) as client:
        yield client


async def heard_within(subscriber: RedisSubscriber, seconds: float) -> list[bytes]:
    heard: list[bytes] = []

    async def collect() -> None:
        async for _, message in subscriber.listen():
            heard.append(message)

    await asyncio.wait({task := asyncio.ensure_future(collect())}, timeout=seconds)
    task.cancel()
    await asyncio.wait({task})
    return heard


async def test_a_batch_tells_how_many_of_it_came_too_late(client: RedisClient) -> None:
    sink = RedisSink(client, clock=SystemClock())
    late = publication("r", channel="gate", message="late", max_age_s=1, created_at=time.time() - 2)
    batch = [publication("r", channel="gate", message="1"), late, image("r", key="k")]
    batch.append(publication("r", channel="gate", message="2"))

    async with hearing(client, "gate") as subscriber:
        assert [len(await sink.deliver(batch)), len(await sink.deliver(batch))] == [1, 1]
        assert await heard_within(subscriber, 0.3) == [b"1", b"2"]
    assert await client.get("k") == b"\xff\xd8"


async def test_one_that_was_heard_before_does_not_count_as_too_late(client: RedisClient) -> None:
    sink, entry = RedisSink(client, clock=SystemClock()), publication("r", channel="c", message="m", max_age_s=0.3)

    assert not await sink.deliver([entry])
    await asyncio.sleep(0.4)
    assert not await sink.deliver([entry])


async def test_a_message_that_was_told_is_remembered_for_longer_than_a_run_may_be_made_again(
    client: RedisClient,
) -> None:
    entry = publication("r", channel="c", message="m", max_age_s=1)
    await RedisSink(client, clock=SystemClock()).deliver([entry])

    (lives_s,) = await client.pipeline([("TTL", f"detector_worker:delivered:{entry.key}")])
    assert lives_s > 3600


async def test_its_age_is_measured_by_the_server_s_clock(client: RedisClient) -> None:
    """The two clocks are an hour apart, as on machines without NTP."""

    class Behind(SystemClock):
        def utc_s(self) -> float:
            return time.time() - 3600

    sink, now_s = RedisSink(client, clock=Behind()), Behind().utc_s()
    fresh, old = (publication("r", channel="c", message=str(age), created_at=now_s - age) for age in (20, 40))

    assert await sink.deliver([fresh, old]) == {old.key}


async def test_a_server_that_was_frozen_does_not_publish_what_is_too_old_by_then(
    private: EmbeddedServers, client: RedisClient, impatient: RedisClient
) -> None:
    ice = ExitStack()

    class Freezing(SystemClock):
        def utc_s(self) -> float:
            """Freeze the server as soon as it has told its own time: the publication still goes into its socket."""
            ice.enter_context(frozen(private.processes()["redis"]))
            return time.time()

    entry = publication("r", channel="gate", message="too old", max_age_s=1)
    async with hearing(client, "gate") as subscriber:
        with ice:
            with pytest.raises(TransientRedisError):
                await RedisSink(impatient, clock=Freezing()).deliver([entry])
            await asyncio.sleep(1.5 - REPLY_S)

        assert await heard_within(subscriber, 0.3) == []
        assert await RedisSink(client, clock=SystemClock()).deliver([entry]) == {entry.key}
        assert await heard_within(subscriber, 0.3) == []


@asynccontextmanager
async def listening(client: RedisClient) -> AsyncIterator[list[bytes]]:
    """Have a listener of two channels collect what it hears, from before a fault until after it."""
    heard: list[bytes] = []
    subscriber = RedisSubscriber(client, ping_after_s=PING_AFTER_S)
    await subscriber.subscribe("gate", "yard")

    async def collect() -> None:
        async for _, message in subscriber.listen():
            heard.append(message)

    task = asyncio.ensure_future(collect())
    yield heard
    task.cancel()
    await asyncio.wait({task})
    await subscriber.close()


def reaching(heard: list[bytes], client: RedisClient, channel: str) -> Callable[[], Awaitable[bool]]:
    """Return what publishes on a channel and tells whether that was heard.

    That somebody listens is no proof: a server learns late that a listener has gone.
    """

    async def reaches() -> bool:
        with suppress(TransientRedisError):
            await RedisPublisher(client).publish(channel, channel)
        return channel.encode() in heard

    return reaches


async def test_a_listener_goes_on_after_its_server_was_killed(private: EmbeddedServers, client: RedisClient) -> None:
    async with listening(client) as heard:
        psutil.Process(private.processes()["redis"]).kill()

        await wait_until(reaching(heard, client, "gate"), timeout_s=10)
        await wait_until(reaching(heard, client, "yard"))


async def test_a_listener_goes_on_after_its_server_was_frozen(
    private: EmbeddedServers, client: RedisClient, impatient: RedisClient
) -> None:
    async with listening(impatient) as heard:
        with frozen(private.processes()["redis"]):
            await asyncio.sleep(PING_AFTER_S + REPLY_S + 0.5)  # longer than it takes to notice, and to fail once more

        await wait_until(reaching(heard, client, "gate"))


async def test_a_listener_leaves_a_connection_that_is_silent(private: EmbeddedServers, client: RedisClient) -> None:
    async with front(private.redis_socket) as peer:
        remote = RedisClient(f"redis://127.0.0.1:{peer.port}", connect_s=REPLY_S, reply_s=REPLY_S)
        async with remote, listening(remote) as heard:
            peer.silence()
            began_s = time.monotonic()

            await wait_until(reaching(heard, client, "gate"))

            # Its promise, and what the first attempt to connect anew may wait.
            assert PING_AFTER_S <= time.monotonic() - began_s < PING_AFTER_S + REPLY_S + 3 * 0.2


async def test_a_listener_that_is_only_not_spoken_to_keeps_its_connection(
    client: RedisClient, impatient: RedisClient
) -> None:
    async with listening(impatient) as heard:
        made = impatient.connections_made

        await asyncio.sleep(PING_AFTER_S + REPLY_S + 0.1)
        await RedisPublisher(client).publish("gate", "1")

        await wait_until(lambda: heard == [b"1"])
        assert impatient.connections_made == made


async def test_a_listener_that_may_not_listen_is_told(private: EmbeddedServers, client: RedisClient) -> None:
    await client.pipeline([("ACL", "SETUSER", "dw", "on", ">pw", "+@all", "-subscribe")])
    subscriber = RedisSubscriber(RedisClient(f"unix://dw:pw@{private.redis_socket}"))

    with pytest.raises(RedisError, match="permission") as caught:
        await subscriber.subscribe("gate")
    with pytest.raises(RedisError, match="permission"):
        await anext(subscriber.listen())

    assert not isinstance(caught.value, TransientRedisError)
    await subscriber.close()


async def test_what_comes_while_channels_are_confirmed_is_heard(client: RedisClient) -> None:
    subscriber = RedisSubscriber(client)
    await subscriber.subscribe("gate")
    await RedisPublisher(client).publish("gate", "early")
    await subscriber.subscribe("yard")

    assert await heard_within(subscriber, 0.3) == [b"early"]
    await subscriber.close()
