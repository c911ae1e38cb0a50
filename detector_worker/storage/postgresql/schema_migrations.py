"""Brings the worker's own schema in PostgreSQL up to date."""

import re
from functools import cache
from importlib.resources import files
from typing import Final

from asyncpg.pool import PoolConnectionProxy

from detector_worker.storage.faults import TransientDatabaseError

__all__ = ["bring_up_to_date"]

_LOCK: Final = 5_021_863_417  # any number, the same for every worker
_APPLIED: Final = "SELECT max(version) FROM detector_worker.schema_versions"
_PREPARE: Final = """
CREATE SCHEMA IF NOT EXISTS detector_worker;
CREATE TABLE IF NOT EXISTS detector_worker.schema_versions (
  version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
"""


async def bring_up_to_date(connection: PoolConnectionProxy, *, allowed: bool, where: str) -> None:
    """Apply what is missing, all or nothing, under an advisory lock; where that is not allowed, raise."""
    applied, wanted = await _applied(connection), max(_migrations())
    if applied >= wanted:
        return  # asked first, since an account without the right to create would fail at the next step
    if not allowed:
        raise TransientDatabaseError(
            f"The worker's own schema is of version {applied}, {wanted} is wanted",
            where=where,
            mend="Set database.auto_migrate once, with an account that may create schemas.",
        )
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(_PREPARE)
        applied = await _applied(connection)
        for version, statements in sorted(_migrations().items()):
            if version > applied:
                await connection.execute(statements)
                await connection.execute("INSERT INTO detector_worker.schema_versions VALUES ($1)", version)


async def _applied(connection: PoolConnectionProxy) -> int:
    if await connection.fetchval("SELECT to_regclass('detector_worker.schema_versions')") is None:
        return 0
    return int(await connection.fetchval(_APPLIED) or 0)


@cache
def _migrations() -> dict[int, str]:
    folder = files("detector_worker.storage.postgresql.migrations")
    named = ((re.match(r"(\d{4})_\w+\.sql$", file.name), file) for file in folder.iterdir())
    return {int(match[1]): file.read_text() for match, file in named if match}
