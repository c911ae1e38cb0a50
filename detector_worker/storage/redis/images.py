"""Pictures under keys that expire, each with what is known of it beside it, for others to read.

The picture under the key K is as it was compressed; ``detector_worker:meta:K`` holds a JSON object with the same time
to live: ``size`` in bytes, ``captured_at`` as RFC 3339, ``visit`` (the record id) and ``sha256`` of the picture in hex.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final, cast

import orjson

from detector_worker.core.clock import rfc3339
from detector_worker.core.exceptions import RedisError
from detector_worker.storage.redis.pool import Command, RedisClient

__all__ = ["ImageInfo", "RedisImageStorage", "image_commands"]

_PREFIX: Final = "detector_worker:meta:"


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What is known of a picture."""

    size_bytes: int
    captured_at: float | None = None
    """Seconds since 1970, UTC; whole milliseconds."""
    visit_id: str | None = None
    """The record id."""
    sha256: str | None = None
    """Hex."""


class RedisImageStorage:
    """Pictures and what is known of them."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def store_image(
        self,
        key: str,
        image: bytes,
        *,
        expire_s: int,
        captured_at: float | None = None,
        visit_id: str | None = None,
        sha256: str | None = None,
    ) -> None:
        """Set a picture, and what is known of it, for ``expire_s`` seconds from now."""
        info = ImageInfo(len(image), captured_at, visit_id, sha256)
        await self._client.pipeline(image_commands(key, image, info, expire_s=expire_s))

    async def retrieve_image(self, key: str) -> bytes | None:
        """Return a picture, or None where it is absent or has expired."""
        return await self._client.get(key)

    async def image_info(self, key: str) -> ImageInfo | None:
        """Return what is known of a picture, or None. RedisError: somebody has written something else there."""
        text = await self._client.get(_PREFIX + key)
        return None if text is None else _read(text, key)

    async def delete_image(self, key: str) -> bool:
        """Delete a picture and what is known of it; False where there was no picture."""
        return cast("int", (await self._client.pipeline([("DEL", key), ("DEL", _PREFIX + key)]))[0]) == 1

    def scan_keys(self, pattern: str = "*") -> AsyncGenerator[str, None]:
        """Yield the keys that match a pattern, without holding the server up; a key may come twice."""
        return self._client.scan_keys(pattern)

    async def cleanup_expired(self, pattern: str = "*") -> int:
        """Have the server free what has expired under a pattern of pictures' keys, now; return how many keys live.

        It does so with each key that it is asked for, and would else take its time.
        """
        async with aclosing(self.scan_keys(_PREFIX + pattern)) as infos:
            async for _ in infos:
                pass
        async with aclosing(self.scan_keys(pattern)) as keys:
            return len({key async for key in keys if not key.startswith(_PREFIX)})


def image_commands(key: str, image: bytes, info: ImageInfo, *, expire_s: int) -> tuple[Command, Command]:
    """Return what sets a picture and what is known of it; the picture first, so that who finds the one has both."""
    text = orjson.dumps(
        {
            "size": info.size_bytes,
            "captured_at": None if info.captured_at is None else rfc3339(info.captured_at),
            "visit": info.visit_id,
            "sha256": info.sha256,
        }
    )
    return ("SET", key, image, "EX", expire_s), ("SET", _PREFIX + key, text, "EX", expire_s)


def _read(text: bytes, key: str) -> ImageInfo:
    try:
        values = orjson.loads(text)
        captured_at = values["captured_at"] and datetime.fromisoformat(values["captured_at"]).timestamp()
        return ImageInfo(values["size"], captured_at, values["visit"], values["sha256"])
    except (ValueError, TypeError, KeyError) as exc:
        mend = "Somebody else writes below detector_worker:meta: there; let others only read."
        raise RedisError("What is known of this picture cannot be read", where=f"key {key}", mend=mend) from exc
