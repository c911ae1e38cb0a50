"""A look at a Redis server's settings: may it lose what it has acknowledged?"""

from typing import Final

from detector_worker.core.exceptions import RedisError
from detector_worker.storage.faults import TransientRedisError
from detector_worker.storage.redis.pool import RedisClient

__all__ = ["survey_server"]

_UNSEEN: Final = (
    "Whether Redis keeps what it has acknowledged cannot be seen, since this user may not ask; allow it +info."
)
_VOLATILE: Final = (
    "Redis writes nothing to disk: when it ends, all pictures are lost, and messages that it published shortly before "
    "may be published a second time. Set `appendonly yes`."
)
_EVICTS_ALL: Final = (
    "Redis may drop any key once it holds {limit} bytes (maxmemory-policy {policy}): pictures vanish before their "
    "time, and a message may be published a second time. Set `maxmemory-policy noeviction`."
)
_EVICTS_EXPIRING: Final = (
    "Redis may drop keys that expire once it holds {limit} bytes (maxmemory-policy {policy}): all pictures do, and "
    "may vanish before their time. Set `maxmemory-policy noeviction`."
)


async def survey_server(client: RedisClient) -> tuple[str, ...]:
    """Return what may be lost there and which setting mends it, a sentence or two each; empty: all is well.

    TransientRedisError: it cannot be told now.
    """
    try:
        persistence, memory = await client.pipeline([("INFO", "persistence"), ("INFO", "memory")])
    except TransientRedisError:
        raise
    except RedisError:
        return (_UNSEEN,)
    facts = _facts(persistence) | _facts(memory)
    warnings = []
    if facts.get("aof_enabled") == "0" and not await _takes_snapshots(client):
        warnings.append(_VOLATILE)
    limit, policy = facts.get("maxmemory", "0"), facts.get("maxmemory_policy", "noeviction")
    if limit != "0" and policy != "noeviction":
        text = _EVICTS_ALL if policy.startswith("allkeys") else _EVICTS_EXPIRING
        warnings.append(text.format(limit=limit, policy=policy))
    return tuple(warnings)


async def _takes_snapshots(client: RedisClient) -> bool:
    """Tell whether it does from time to time; INFO does not say. Where the setting may not be read: assume so."""
    try:
        (answer,) = await client.pipeline([("CONFIG", "GET", "save")])
    except TransientRedisError:
        raise
    except RedisError:
        return True
    return bool(answer != [b"save", b""])


def _facts(info: bytes) -> dict[str, str]:
    lines = info.decode(errors="replace").splitlines()
    return {key: value for key, separator, value in (line.partition(":") for line in lines) if separator}
