"""Fixtures of every test."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from support.databases import config_of, create_database, drop_database, make_template
from support.folders import open_folder

from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.embedded_servers import EmbeddedServers
from detector_worker.storage.redis_client import RedisClient


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """A PostgreSQL and a Valkey of our own: no port, nothing installed, gone afterwards."""
    with open_folder() as folder, EmbeddedServers(folder / "data") as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def database_template(servers: EmbeddedServers) -> str:
    """The name of a database with the worker's own schema, to be cloned."""
    return await make_template(servers)


@pytest_asyncio.fixture
async def database_config(servers: EmbeddedServers, database_template: str) -> AsyncIterator[DatabaseConfig]:
    """A database of this test's own."""
    name = await create_database(servers, template=database_template)
    yield config_of(servers, name)
    await drop_database(servers, name)


@pytest_asyncio.fixture
async def database(database_config: DatabaseConfig) -> AsyncIterator[DatabaseManager]:
    """A manager connected to this test's own database."""
    async with DatabaseManager(database_config, auto_migrate=True) as manager:
        yield manager


@pytest_asyncio.fixture
async def redis_client(servers: EmbeddedServers) -> AsyncIterator[RedisClient]:
    """A client of a server that holds nothing yet."""
    async with RedisClient(f"unix://{servers.redis_socket}") as client:
        await client.pipeline([("FLUSHALL",)])
        yield client
