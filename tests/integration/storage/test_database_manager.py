import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from support.databases import config_of
from support.folders import open_folder
from support.freezing import frozen
from support.waiting import wait_until

from detector_worker.core.exceptions import DatabaseError
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager, DatabaseTimeouts
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.faults import TransientDatabaseError

CANARY = "canary-password"
UUID = "0195f000-0000-7000-8000-000000000001"


@pytest.fixture
async def cars(database: DatabaseManager) -> DatabaseManager:
    await database.execute_query("CREATE TABLE cars (record_id uuid PRIMARY KEY, brand text, seen int)")
    return database


async def test_the_server_casts_every_value_to_the_columns_type(database: DatabaseManager) -> None:
    await database.execute_query(
        "CREATE TABLE kinds (id uuid, at timestamptz, price numeric(8,2), more jsonb, list json, parked bool, seen int,"
        " far bigint, part real, name text, short varchar(3), day date, raw bytea, net inet, absent text)"
    )
    await database.create_record(
        "kinds",
        {
            "id": UUID,
            "at": "2026-01-31T10:26:53.589+01:00",
            "price": 12.345,
            "more": {"a": [1, None, "ü"]},
            "list": [1, 2],
            "parked": True,
            "seen": 10.0,
            "far": 2**62,
            "part": 0.5,
            "name": 'it\'s; "quoted" \\ line\nnext',
            "short": "abc",
            "day": "2026-01-31",
            "raw": "\\xff00",
            "net": "10.0.0.1",
            "absent": None,
        },
    )

    assert await database.get_record("kinds", UUID, "id") == {
        "id": UUID,
        "at": "2026-01-31T09:26:53.589+00:00",
        "price": 12.35,
        "more": {"a": [1, None, "ü"]},
        "list": [1, 2],
        "parked": True,
        "seen": 10,
        "far": 2**62,
        "part": 0.5,
        "name": 'it\'s; "quoted" \\ line\nnext',
        "short": "abc",
        "day": "2026-01-31",
        "raw": "\\xff00",
        "net": "10.0.0.1",
        "absent": None,
    }


async def test_text_too_long_for_its_column_is_refused_and_not_cut(database: DatabaseManager) -> None:
    await database.execute_query("CREATE TABLE plates (id int, plate varchar(3), kind char(2))")

    with pytest.raises(DatabaseError, match="too long"):
        await database.create_record("plates", {"id": 1, "plate": "abcd"})
    with pytest.raises(DatabaseError, match="too long"):
        await database.create_record("plates", {"id": 1, "kind": "abc"})

    assert await database.execute_query("SELECT * FROM plates") == []


async def test_a_record_is_created_completed_and_read_back(cars: DatabaseManager) -> None:
    await cars.create_record("cars", {"record_id": UUID, "brand": None})
    await cars.update_record("cars", UUID, "record_id", {"brand": "Toyota", "seen": 3})

    assert await cars.get_record("cars", UUID, "record_id") == {"record_id": UUID, "brand": "Toyota", "seen": 3}
    assert await cars.get_record("cars", UUID.replace("1", "2"), "record_id") is None


async def test_an_update_without_a_row_is_an_error(cars: DatabaseManager) -> None:
    with pytest.raises(DatabaseError, match="found no row") as caught:
        await cars.update_record("cars", UUID, "record_id", {"brand": "x"})

    assert not isinstance(caught.value, TransientDatabaseError)


@pytest.mark.parametrize("name", ['weird "name"', "drop table cars; --", "Ünïcode", "select", "a.b"])
async def test_any_name_of_a_table_and_column_is_only_a_name(database: DatabaseManager, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    await database.execute_query(f"CREATE TABLE {quoted} ({quoted} int, other text)")

    await database.create_record(name, {name: 1, "other": "x"})
    await database.update_record(name, 1, name, {"other": name})

    assert await database.get_record(name, 1, name) == {name: 1, "other": name}


@pytest.mark.parametrize(
    "column", ["brand\" = 'x' --", "brand) SELECT 1; DROP TABLE cars; --", "ctid", "BRAND", "brand\x00", ""]
)
async def test_a_column_that_does_not_exist_is_refused_by_name(cars: DatabaseManager, column: str) -> None:
    with pytest.raises(DatabaseError, match=r"no column|cannot be"):
        await cars.create_record("cars", {"record_id": UUID, column: "x"})
    with pytest.raises(DatabaseError, match=r"no column|cannot be"):
        await cars.get_record("cars", UUID, column)

    assert await cars.execute_query("SELECT count(*) AS n FROM cars") == [{"n": 0}]


@pytest.mark.parametrize(
    "table", ["pg_authid", "pg_settings", "tables", "delivered", "schema_versions", "pg_catalog.pg_proc"]
)
async def test_system_tables_and_our_own_do_not_exist_for_records(database: DatabaseManager, table: str) -> None:
    with pytest.raises(DatabaseError, match="no table"):
        await database.update_record(table, "x", "rolname", {"rolpassword": "x"})


async def test_a_column_altered_under_way_is_noticed(cars: DatabaseManager) -> None:
    with pytest.raises(DatabaseError, match="invalid input syntax"):
        await cars.create_record("cars", {"record_id": UUID, "seen": "three"})
    await cars.execute_query("ALTER TABLE cars ALTER seen TYPE text")

    await cars.create_record("cars", {"record_id": UUID, "seen": "three"})
    await cars.execute_query("ALTER TABLE cars ADD colour text")
    await cars.update_record("cars", UUID, "record_id", {"colour": "red"})

    record = await cars.get_record("cars", UUID, "record_id")
    assert record is not None
    assert (record["seen"], record["colour"]) == ("three", "red")


async def test_nan_and_infinities_reach_a_float_column(database: DatabaseManager) -> None:
    await database.execute_query("CREATE TABLE floats (id int, value float8)")
    await database.create_record("floats", {"id": 1, "value": math.inf})

    assert await database.execute_query("SELECT value FROM floats") == [{"value": math.inf}]


async def test_declared_tables_are_added_once_and_nothing_is_dropped(database: DatabaseManager) -> None:
    await database.ensure_tables({"trucks": {"record_id": "uuid primary key"}}, add=True)
    await database.create_record("trucks", {"record_id": UUID})
    wanted = {"trucks": {"record_id": "text", "brand": "varchar(9)"}, "vans": {"id": "int"}}

    told = await database.ensure_tables(wanted, add=False)
    added, again = (
        await database.ensure_tables(wanted, add=True),
        await database.ensure_tables(wanted, add=True),
    )

    assert len(told) == 2
    assert added == told
    assert again == []
    assert await database.get_record("trucks", UUID, "record_id") == {"record_id": UUID, "brand": None}


async def test_two_workers_may_declare_the_same_table_at_the_same_time(database_config: DatabaseConfig) -> None:
    tables = {f"table {n}": {"id": "uuid primary key", "x": "text"} for n in range(5)}
    managers = [DatabaseManager(database_config, auto_migrate=True) for _ in range(4)]

    await asyncio.gather(*(manager.ensure_tables(tables, add=True) for manager in managers))

    assert len(await managers[0].execute_query("SELECT 1 FROM pg_tables WHERE tablename LIKE 'table %'")) == 5
    await asyncio.gather(*(manager.disconnect() for manager in managers))


async def test_workers_that_start_together_migrate_an_empty_database_once(servers: EmbeddedServers) -> None:
    connection = await asyncpg.connect(
        host=str(servers.postgresql_socket_dir), user=servers.postgresql_user, database="postgres"
    )
    await connection.execute("DROP DATABASE IF EXISTS empty_one")
    await connection.execute("CREATE DATABASE empty_one TEMPLATE template0")
    managers = [DatabaseManager(config_of(servers, "empty_one"), auto_migrate=True) for _ in range(4)]

    await asyncio.gather(*(manager.connect() for manager in managers))

    rows = await managers[0].execute_query("SELECT version FROM detector_worker.schema_versions ORDER BY version")
    assert [row["version"] for row in rows] == list(range(1, 1 + len(rows)))
    await asyncio.gather(*(manager.disconnect() for manager in managers))
    await connection.execute("DROP DATABASE empty_one WITH (FORCE)")
    await connection.close()


async def test_without_the_right_to_migrate_a_missing_schema_is_told_and_blames_no_record(
    servers: EmbeddedServers, database_config: DatabaseConfig
) -> None:
    async with DatabaseManager(database_config, auto_migrate=True) as owner:
        await owner.execute_query("DROP SCHEMA detector_worker CASCADE")
    manager = DatabaseManager(database_config, auto_migrate=False)

    with pytest.raises(TransientDatabaseError, match=r"database\.auto_migrate"):
        await manager.connect()

    await manager.disconnect()


async def test_our_schema_is_made_anew_where_a_restored_database_has_lost_it(cars: DatabaseManager) -> None:
    await cars.execute_query("DROP SCHEMA detector_worker CASCADE")

    await cars.create_record("cars", {"record_id": UUID})

    assert len(await cars.execute_query("SELECT 1 FROM cars")) == 1


async def test_the_password_shows_in_no_text(tmp_path: Path) -> None:
    config = DatabaseConfig(host=str(tmp_path), password=CANARY)
    manager = DatabaseManager(config, auto_migrate=True)

    with pytest.raises(TransientDatabaseError) as caught:
        await manager.write([])

    assert CANARY not in f"{config!r} {config} {caught.value!r} {caught.value}"
    assert str(tmp_path) in str(caught.value)


@pytest.fixture
async def private_servers() -> AsyncIterator[EmbeddedServers]:
    with open_folder() as folder, EmbeddedServers(folder / "data", redis=False) as running:
        yield running


async def test_a_direct_call_survives_the_death_of_the_server(private_servers: EmbeddedServers) -> None:
    async with DatabaseManager(config_of(private_servers), auto_migrate=True) as database:
        await database.execute_query("CREATE TABLE cars (record_id uuid PRIMARY KEY)")
        psutil.Process(private_servers.processes()["postgresql"]).kill()

        await database.create_record("cars", {"record_id": UUID})

        assert len(await database.execute_query("SELECT 1 FROM cars")) == 1


@pytest.mark.parametrize(("statement_s", "operation_s"), [(1.0, 30.0), (30.0, 1.0)])
async def test_a_frozen_server_costs_no_more_than_the_deadline(
    private_servers: EmbeddedServers, statement_s: float, operation_s: float
) -> None:
    limits = DatabaseTimeouts(connect_s=1.0, statement_s=statement_s, operation_s=operation_s)
    database = DatabaseManager(config_of(private_servers), auto_migrate=True, timeouts=limits)
    await database.connect()
    await database.execute_query("CREATE TABLE cars (record_id uuid PRIMARY KEY)")
    loop = asyncio.get_running_loop()
    with frozen(private_servers.processes()["postgresql"]):
        for _ in range(2):  # with an open connection, then without
            began_s = loop.time()
            with pytest.raises(TransientDatabaseError):
                await database.ensure_tables({"cars": {"record_id": "uuid"}}, add=True)
            assert loop.time() - began_s < 3.0

    await database.create_record("cars", {"record_id": UUID})
    await database.disconnect()
    await wait_until(lambda: len(asyncio.all_tasks()) == 1)
