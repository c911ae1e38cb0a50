"""What the servers have, compared with what the spool accepted: a sentence for each thing that is wrong."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import redis.exceptions
from redis.asyncio import Redis
from support.storage_faults.load import CHANNEL, STAGES, Ledger, picture

__all__ = ["Hearing", "hearing", "judge_arrivals", "judge_messages", "judge_pictures", "judge_rows"]

_AT_ONCE: Final = 100
_RECONNECT_S: Final = 0.05


async def judge_rows(database: asyncpg.Connection, ledger: Ledger, *, is_complete: bool = True) -> list[str]:
    """What is there is there once and took its values in their order; ``is_complete``: nothing else is there."""
    found = await database.fetch("SELECT record_id::text AS id, stage FROM visits")
    rows, finals = Counter[str](row["id"] for row in found), {row["id"]: row["stage"] for row in found}
    changes = await _changes(database)
    return [
        *_told("have more than one row", [one for one in rows if rows[one] > 1]),
        *_told("have a row and were never accepted", rows.keys() - ledger.created_s.keys() if is_complete else ()),
        *_told("were not changed in their order, once", [one for one, n in changes.items() if n != STAGES[: len(n)]]),
        *_told("do not have their last value", [one for one, n in changes.items() if finals.get(one) != n[-1]]),
    ]


async def judge_arrivals(database: asyncpg.Connection, ledger: Ledger) -> list[str]:
    """Every accepted creation and update has come."""
    changes = await _changes(database)
    return [
        *_told("have no row", [one for one in ledger.created_s if one not in changes]),
        *_told("lack an update", [one for one, n in ledger.updates.items() if len(changes.get(one, ())) <= n]),
    ]


async def judge_pictures(client: Redis, ledger: Ledger) -> list[str]:
    """Every accepted picture is there, to the bit."""
    keys, wrong = list(ledger.pictures), []
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        found = await client.mget(some)
        wrong += [key for key, image in zip(some, found, strict=True) if image != picture(key)]
    return _told("lack a picture", wrong)


def judge_messages(heard: "Hearing", ledger: Ledger, *, is_sure: Callable[[float], bool]) -> list[str]:
    """No message is heard twice, and none is missed of a visit that was created when ``is_sure`` says so."""
    sure = [one for one, created_s in ledger.created_s.items() if is_sure(created_s)]
    return [
        *_told("were told twice", [one for one, times in heard.times.items() if times > 1 and one in ledger.created_s]),
        *_told("were not told", [one for one in sure if one not in heard.times]),
        *(["no visit was created when its message had to be heard"] if not sure else []),
    ]


@dataclass
class Hearing:
    """How often each message was heard."""

    times: Counter[str] = field(default_factory=Counter)
    connected_s: float = 0.0
    """Since when it listens without a break, monotonic seconds."""


@asynccontextmanager
async def hearing(client: Redis) -> AsyncIterator[Hearing]:
    """Listen to the channel of the load, from now on, over all reconnections."""
    heard, is_listening = Hearing(), asyncio.Event()

    async def listen() -> None:
        async with client.pubsub() as listener:
            await listener.subscribe(CHANNEL)
            async for message in listener.listen():
                if message["type"] == "message":
                    heard.times[message["data"].decode()] += 1
                else:
                    heard.connected_s = time.monotonic()
                    is_listening.set()

    async def listen_for_ever() -> None:
        while True:
            try:
                await listen()
            except (redis.exceptions.RedisError, OSError):
                await asyncio.sleep(_RECONNECT_S)

    task = asyncio.create_task(listen_for_ever(), name="hearing")
    try:
        await is_listening.wait()
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _changes(database: asyncpg.Connection) -> dict[str, tuple[int, ...]]:
    in_order = "SELECT record_id::text, array_agg(stage ORDER BY number) FROM changes GROUP BY 1"
    return {record_id: tuple(stages) for record_id, stages in await database.fetch(in_order)}


def _told(what: str, visits: Collection[str]) -> list[str]:
    return [f"{len(visits)} visits {what}, such as {next(iter(visits))}"] if visits else []
