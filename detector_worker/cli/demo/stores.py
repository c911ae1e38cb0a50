"""What the worker has stored, read back from its PostgreSQL and its Redis."""

import asyncio
import re
from collections.abc import Iterable
from typing import Final

import asyncpg
import cv2
import numpy as np
import redis.exceptions
from redis.asyncio import Redis

from detector_worker.cli.demo.client import DISPLAY_ID
from detector_worker.cli.demo.comparison import Record
from detector_worker.cli.services import RunningServices
from detector_worker.core.exceptions import DatabaseError, RedisError

__all__ = ["PICTURES", "count_pictures", "read_picture", "read_records"]

PICTURES: Final = ("vehicle", "frame")
"""The names of the pictures of each record."""
_ADDRESS_PART: Final = re.compile(r"(\w+)=(.*?)(?=\s+\w+=|$)")
_NEWEST: Final = """
SELECT record_id::text AS id, camera_id, extract(epoch FROM captured_timestamp)::float8 AS captured_s,
       x1, y1, x2, y2, brand, body_type, plate
FROM gate_visits ORDER BY captured_timestamp DESC LIMIT $1
"""


async def read_records(services: RunningServices, *, limit: int | None = None) -> list[Record]:
    """Return the records, newest first; none where there is no table yet.

    Raises:
        DatabaseError: PostgreSQL cannot be asked.
    """
    parts = dict(_ADDRESS_PART.findall(services.postgresql))
    try:
        connection = await asyncpg.connect(
            host=parts["host"], port=int(parts["port"]), database=parts["dbname"], user=parts["user"], timeout=10
        )
        try:
            rows = await connection.fetch(_NEWEST, limit, timeout=30)
        finally:
            await connection.close(timeout=5)
    except asyncpg.UndefinedTableError:
        return []
    except (OSError, asyncpg.PostgresError) as exc:
        mend = "Try again; the worker's log tells what became of its PostgreSQL."
        raise DatabaseError(f"The records cannot be read: {exc}", where=parts["host"], mend=mend) from exc
    return [_record(row) for row in rows]


async def read_picture(services: RunningServices, record_id: str, name: str) -> bytes | None:
    """Return one picture of a record, None where there is none.

    Raises:
        RedisError: Redis cannot be asked.
    """
    return (await _read_pictures(services, [_key(record_id, name)]))[0]


async def count_pictures(services: RunningServices, record_ids: Iterable[str]) -> int:
    """Return how many of these records' pictures are stored and can be decoded.

    Raises:
        RedisError: Redis cannot be asked.
    """
    total = 0
    for record_id in record_ids:
        pictures = await _read_pictures(services, [_key(record_id, name) for name in PICTURES])
        total += await asyncio.to_thread(lambda found: sum(map(_is_jpeg, found)), pictures)
    return total


async def _read_pictures(services: RunningServices, keys: list[str]) -> list[bytes | None]:
    option, _, address = services.redis.partition(" ")
    client = Redis(unix_socket_path=address, socket_timeout=5) if option == "-s" else Redis.from_url(address)
    try:
        async with client:
            found: list[bytes | None] = await client.mget(keys)  # type: ignore[assignment]  # never decoded here
            return found
    except redis.exceptions.RedisError as exc:
        mend = "Try again; the worker's log tells what became of its Redis."
        raise RedisError(f"Pictures cannot be read: {exc}", where=address, mend=mend) from exc


def _key(record_id: str, name: str) -> str:
    return f"gate:{DISPLAY_ID}:{record_id}:{name}"


def _is_jpeg(content: bytes | None) -> bool:
    if content is None or not content.startswith(b"\xff\xd8"):
        return False
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None


def _record(row: asyncpg.Record) -> Record:
    return Record(
        record_id=row["id"],
        camera_id=row["camera_id"],
        captured_s=row["captured_s"],
        xyxy=(row["x1"], row["y1"], row["x2"], row["y2"]),
        brand=row["brand"],
        body=row["body_type"],
        plate=row["plate"],
    )
