"""A look at which tables and columns a database has, before any worker uses it; nothing is ever written."""

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from detector_worker.core.exceptions import DatabaseError
from detector_worker.storage.faults import postgresql_error
from detector_worker.storage.postgresql.catalogue import Table, find_table

__all__ = ["survey_tables"]

_TIMEOUT_S: Final = 5.0
_NAME: Final = {"application_name": "detector-worker mpta"}


async def survey_tables(url: str, names: Iterable[str]) -> dict[str, Table | None]:
    """Return what each table name, with its schema or without, means in a database; None: there is no such table.

    Args:
        url: ``postgresql://user:password@host:port/database``, or ``postgresql:///database?host=/folder`` for a socket;
            its password is never shown.
        names: As quoted identifiers would have them.

    Raises:
        DatabaseError: It cannot be connected to, or asked.
    """
    where = _shown(url)
    options: dict[str, Any] = {"timeout": _TIMEOUT_S, "command_timeout": _TIMEOUT_S, "server_settings": _NAME}
    try:
        async with (
            asyncpg.create_pool(url, min_size=0, max_size=1, **options) as pool,
            pool.acquire() as connection,
            connection.transaction(readonly=True),
        ):
            return {name: await find_table(connection, name) for name in names}
    except (asyncpg.PostgresError, OSError) as exc:  # a certificate that is not believed is a ValueError as well
        raise postgresql_error(exc, where=where) from exc
    except ValueError as exc:  # before the driver's own: what asyncpg says of a wrong URL may quote it
        mend = "Write it as postgresql://user:password@host:5432/database, percent-encoded."
        raise DatabaseError("This is no address of a PostgreSQL database", where=where, mend=mend) from exc
    except asyncpg.InterfaceError as exc:
        raise postgresql_error(exc, where=where) from exc


def _shown(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or parse_qs(parts.query).get("host", [""])[0]
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "PostgreSQL"
    return f"PostgreSQL {host}{port}{parts.path}" if parts.scheme in {"postgresql", "postgres"} else "PostgreSQL"
