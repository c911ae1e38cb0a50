"""Databases of one test each, cloned from a migrated template."""

from uuid import uuid4

import asyncpg

from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers

__all__ = ["config_of", "create_database", "drop_database", "make_template"]


def config_of(servers: EmbeddedServers, database: str | None = None) -> DatabaseConfig:
    """How to reach a database of embedded servers."""
    name = database or servers.postgresql_database
    return DatabaseConfig(host=str(servers.postgresql_socket_dir), user=servers.postgresql_user, database=name)


async def make_template(servers: EmbeddedServers) -> str:
    """Make a database that holds the worker's own schema and nothing else."""
    name = await create_database(servers, template="template0")
    async with DatabaseManager(config_of(servers, name), auto_migrate=True):
        return name


async def create_database(servers: EmbeddedServers, *, template: str) -> str:
    """Clone a database and return the clone's name."""
    name = f"test_{uuid4().hex}"
    await _execute(servers, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return name


async def drop_database(servers: EmbeddedServers, name: str) -> None:
    """Drop a database, whoever is still connected."""
    await _execute(servers, f'DROP DATABASE "{name}" WITH (FORCE)')


async def _execute(servers: EmbeddedServers, statement: str) -> None:
    connection = await asyncpg.connect(
        host=str(servers.postgresql_socket_dir), user=servers.postgresql_user, database="postgres"
    )
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
