"""Pictures, and what is known of them."""

import asyncio
import hashlib
import json
import time

import pytest
from support.waiting import wait_until

from detector_worker.core.clock import SystemClock, rfc3339
from detector_worker.core.exceptions import RedisError
from detector_worker.core.outbox import SpoolEntry, StoreImage
from detector_worker.storage.redis_client import ImageInfo, RedisClient, RedisImageStorage
from detector_worker.storage.sinks import RedisSink

CAPTURED_AT = 1_700_000_000.25
IMAGE = b"\xff\xd8\x00"
SHA256 = hashlib.sha256(IMAGE).hexdigest()


def entry(key: str, *, captured_at: float | None = CAPTURED_AT, sha256: str | None = SHA256) -> SpoolEntry:
    return SpoolEntry("e", "visit", time.time(), StoreImage(key, IMAGE, 600, captured_at=captured_at, sha256=sha256))


async def test_what_the_worker_delivers_is_read_by_others(redis_client: RedisClient) -> None:
    await RedisSink(redis_client, clock=SystemClock()).deliver([entry("gate:7")])

    text = await redis_client.get("detector_worker:meta:gate:7")
    assert text is not None
    assert json.loads(text) == {
        "size": 3,
        "captured_at": rfc3339(CAPTURED_AT),
        "visit": "visit",
        "sha256": SHA256,
    }
    ages = await redis_client.pipeline([("TTL", "gate:7"), ("TTL", "detector_worker:meta:gate:7")])
    assert ages[0] == ages[1] == 600
    storage = RedisImageStorage(redis_client)
    assert await storage.image_info("gate:7") == ImageInfo(3, CAPTURED_AT, "visit", SHA256)
    assert await storage.retrieve_image("gate:7") == IMAGE


async def test_what_an_older_worker_has_accepted_has_less_to_tell(redis_client: RedisClient) -> None:
    await RedisSink(redis_client, clock=SystemClock()).deliver([entry("old", captured_at=None, sha256=None)])

    assert await RedisImageStorage(redis_client).image_info("old") == ImageInfo(3, None, "visit", None)


async def test_what_is_stored_directly_is_the_same(redis_client: RedisClient) -> None:
    storage = RedisImageStorage(redis_client)
    await RedisSink(redis_client, clock=SystemClock()).deliver([entry("a")])
    await storage.store_image("b", IMAGE, expire_s=600, captured_at=CAPTURED_AT, visit_id="visit", sha256=SHA256)

    assert await storage.image_info("b") == await storage.image_info("a")
    assert await storage.image_info("absent") is None


async def test_a_deleted_image_leaves_nothing_behind(redis_client: RedisClient) -> None:
    storage = RedisImageStorage(redis_client)
    await storage.store_image("k", IMAGE, expire_s=60)

    assert [await storage.delete_image("k"), await storage.delete_image("k")] == [True, False]
    assert (await redis_client.pipeline([("DBSIZE",)]))[0] == 0


@pytest.mark.parametrize(
    "text", ["no json", "[]", "{}", '{"size": 1, "captured_at": "soon", "visit": "", "sha256": ""}']
)
async def test_what_somebody_else_has_written_there_is_no_surprise(redis_client: RedisClient, text: str) -> None:
    await redis_client.set("detector_worker:meta:k", text)

    with pytest.raises(RedisError, match="key k"):
        await RedisImageStorage(redis_client).image_info("k")


async def test_a_clean_up_counts_the_pictures_that_live(redis_client: RedisClient) -> None:
    storage = RedisImageStorage(redis_client)
    for number in range(10):
        await storage.store_image(f"gate:{number}", IMAGE, expire_s=1 if number < 4 else 60)
    await storage.store_image("yard:1", IMAGE, expire_s=60)
    assert await storage.cleanup_expired("gate:*") == 10

    await asyncio.sleep(1.1)

    assert [await storage.cleanup_expired("gate:*"), await storage.cleanup_expired()] == [6, 7]
    assert (await redis_client.pipeline([("DBSIZE",)]))[0] == 14


async def test_an_image_is_gone_after_it_expires(redis_client: RedisClient) -> None:
    storage = RedisImageStorage(redis_client)
    await storage.store_image("gate-2:7", IMAGE, expire_s=1)

    assert await storage.retrieve_image("gate-2:7") == IMAGE

    async def gone() -> bool:
        return (await storage.retrieve_image("gate-2:7"), await storage.image_info("gate-2:7")) == (None, None)

    await wait_until(gone)


async def test_keys_of_any_bytes_are_walked_over_and_deleted(redis_client: RedisClient) -> None:
    await redis_client.pipeline([("SET", b"gate:\xff", "x")])

    (key,) = [key async for key in RedisImageStorage(redis_client).scan_keys("gate:*")]

    assert await redis_client.delete(key) == 1
