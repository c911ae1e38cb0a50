"""A silent server costs a call no more than its deadline, wherever it falls silent; the next call is made anew."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from support.spooling import creation
from support.storage_faults.proxy import FaultyProxy, Loss
from support.waiting import wait_until

from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager, DatabaseTimeouts
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.faults import TransientDatabaseError

OPERATION_S = 0.3
UUID = "0195f000-0000-7000-8000-000000000001"
IN_THE_HANDSHAKE = b"application_name"
IN_THE_MIGRATION = b"schema_versions"
IN_THE_INSERT = b"INSERT INTO"
IN_THE_COMMIT = b"COMMIT"


@pytest.fixture
async def proxy(servers: EmbeddedServers) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(servers.postgresql_socket_dir / ".s.PGSQL.5432") as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("loss", "silent", "is_open"),
    [
        (Loss.EVERYTHING, IN_THE_HANDSHAKE, False),
        (Loss.ANSWERS, IN_THE_MIGRATION, False),
        (Loss.ANSWERS, IN_THE_INSERT, True),
        (Loss.ANSWERS, IN_THE_COMMIT, True),
        (Loss.EVERYTHING, IN_THE_COMMIT, True),
    ],
)
async def test_a_call_ends_wherever_the_server_falls_silent(
    database_config: DatabaseConfig,
    database: DatabaseManager,
    proxy: FaultyProxy,
    loss: Loss,
    silent: bytes,
    *,
    is_open: bool,
) -> None:
    await database.execute_query("CREATE TABLE cars (record_id uuid)")
    limits = DatabaseTimeouts(connect_s=30.0, statement_s=30.0, operation_s=OPERATION_S)
    over_tcp = replace(database_config, host="127.0.0.1", port=proxy.port)
    manager = DatabaseManager(over_tcp, auto_migrate=True, timeouts=limits)
    if is_open:
        await manager.write([])
    loop = asyncio.get_running_loop()
    proxy.begin(loss, after=(silent,))
    began_s = loop.time()

    with pytest.raises(TransientDatabaseError) as caught:
        await manager.write([creation(UUID)])

    took_s = loop.time() - began_s
    proxy.end()
    assert caught.value.connection_lost
    assert took_s < OPERATION_S + 1
    await manager.write([creation(UUID)])
    assert await database.execute_query("SELECT count(*) AS n FROM cars") == [{"n": 1}]
    await manager.disconnect()
    await wait_until(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_pool_can_be_thrown_away_while_it_is_being_opened(
    database_config: DatabaseConfig, proxy: FaultyProxy
) -> None:
    manager = DatabaseManager(replace(database_config, host="127.0.0.1", port=proxy.port), auto_migrate=True)
    proxy.begin(Loss.ANSWERS, after=(IN_THE_MIGRATION,))
    writing = asyncio.create_task(manager.write([]))
    await asyncio.sleep(0.2)
    assert not writing.done()

    manager.throw_away_pool()

    with pytest.raises(TransientDatabaseError):
        await asyncio.wait_for(writing, 0.5)
