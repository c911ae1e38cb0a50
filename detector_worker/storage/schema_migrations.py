"""Brings the worker's own schema in PostgreSQL up to date."""

import re
from functools import cache
from importlib.resources import files
from typing import Final

from asyncpg.pool import PoolConnectionProxy

from detector_worker.storage.faults import TransientDatabaseError

__all__ = ["apply_migrations", "check_migrations"]

_LOCK: Final = 5_021_863_417  # any number, the same for every worker
_APPLIED: Final = "SELECT max(version) FROM detector_worker.schema_versions"
_PREPARE: Final = """
CREATE SCHEMA IF NOT EXISTS detector_worker;
CREATE TABLE IF NOT EXISTS detector_worker.schema_versions (
  version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
"""


async def apply_migrations(connection: PoolConnectionProxy) -> None:
    """Apply what is missing, under an advisory lock, each file in a transaction of its own."""
    if await _applied(connection) >= max(_migrations()):
        return  # asked first, since an account without the right to create would fail at the next step
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(_PREPARE)
        applied = await _applied(connection)
        for version, statements in sorted(_migrations().items()):
            if version > applied:
                async with connection.transaction():
                    await connection.execute(statements)
                    await connection.execute("INSERT INTO detector_worker.schema_versions VALUES ($1)", version)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def check_migrations(connection: PoolConnectionProxy, *, where: str) -> None:
    """Raise where something is missing.

    Raises:
        TransientDatabaseError: An operator has to apply the migrations first.
    """
    applied, wanted = await _applied(connection), max(_migrations())
    if applied < wanted:
        raise TransientDatabaseError(
            f"The worker's own schema is of version {applied}, {wanted} is wanted",
            where=where,
            mend="Run make db-migrate with an account that may create schemas, or set database.auto_migrate.",
        )


async def _applied(connection: PoolConnectionProxy) -> int:
    if await connection.fetchval("SELECT to_regclass('detector_worker.schema_versions')") is None:
        return 0
    return int(await connection.fetchval(_APPLIED) or 0)


@cache
def _migrations() -> dict[int, str]:
    folder = files("detector_worker.storage.migrations")
    named = ((re.match(r"(\d{4})_\w+\.sql$", file.name), file) for file in folder.iterdir())
    return {int(match[1]): file.read_text() for match, file in named if match}
