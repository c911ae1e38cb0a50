"""What is remembered of the users' tables is never older than it does harm, and names mean what people expect."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Literal
from uuid import uuid4

import asyncpg
import pytest
from asyncpg.pool import PoolConnectionProxy
from support.databases import config_of
from support.spooling import creation, update

from detector_worker.core.entities import FieldValue
from detector_worker.core.exceptions import DatabaseError
from detector_worker.core.outbox import CreateRecord, Delivery, PatchRecord, SpoolEntry, UpdateRecord
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.postgresql.catalogue import Tables
from detector_worker.storage.postgresql.table_survey import survey_tables

IDS = [f"0195f000-0000-7000-8000-00000000000{number}" for number in range(10)]

ALTERATIONS: list[tuple[str, str, FieldValue, object]] = [
    ("text", "int", "7", 7),
    ("int", "text", "seven", "seven"),
    ("int", "numeric", 10.7, 10.7),  # cast to what it was, it would be 11
    ("int", "text", 10.7, "10.7"),
    ("date", "timestamp", "2026-01-31 10:26:53", "2026-01-31T10:26:53"),
    ("real", "float8", 0.123456789, 0.123456789),
    ("varchar(3)", "varchar(9)", "abcdef", "abcdef"),
]


@pytest.fixture
async def cars(database_config: DatabaseConfig) -> AsyncIterator[DatabaseManager]:
    """A manager with a single connection, which knows its table already."""
    async with DatabaseManager(replace(database_config, connection_pool_size=1), auto_migrate=True) as manager:
        await manager.execute_query("CREATE TABLE cars (record_id uuid PRIMARY KEY, brand text, seen int)")
        await manager.write([creation(IDS[0], brand="a", seen=1)])
        yield manager


@pytest.fixture
async def owner(database_config: DatabaseConfig) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else, who alters the tables."""
    connection = await asyncpg.connect(
        host=database_config.host, user=database_config.user, database=database_config.database
    )
    yield connection
    await connection.close()


def entry(delivery: Delivery) -> SpoolEntry:
    return SpoolEntry(str(uuid4()), "visit", 0.0, delivery)


async def row(database: DatabaseManager, record_id: str) -> dict[str, Any]:
    found = await database.get_record("cars", record_id, "record_id")
    assert found is not None
    return found


async def queries_of(database: DatabaseManager, entries: list[SpoolEntry]) -> list[str]:
    """Write entries and return the statements that it took."""
    seen: list[str] = []

    async def watch(connection: PoolConnectionProxy, _: Tables) -> None:
        connection.add_query_logger(lambda record: seen.append(record.query))

    await database._pool.run(watch)
    await database.write(entries)
    return seen


async def test_a_table_is_looked_up_once(cars: DatabaseManager) -> None:
    seen = await queries_of(cars, [creation(IDS[1], brand="b", seen=2), update(IDS[0], brand="c", seen=3)])

    assert any("INSERT INTO" in query for query in seen)
    assert [query for query in seen if "pg_class" in query] == []
    cars.throw_away_pool()
    assert any("pg_class" in query for query in await queries_of(cars, [creation(IDS[2], brand="b", seen=2)]))


async def test_a_column_added_later_is_found(cars: DatabaseManager, owner: asyncpg.Connection) -> None:
    await owner.execute("ALTER TABLE cars ADD colour text")

    await cars.write([creation(IDS[1], colour="red"), update(IDS[0], colour="blue")])

    assert (await row(cars, IDS[1]))["colour"] == "red"
    assert (await row(cars, IDS[0]))["colour"] == "blue"


async def test_a_column_added_later_is_found_by_a_patch(cars: DatabaseManager, owner: asyncpg.Connection) -> None:
    await owner.execute("ALTER TABLE cars ADD colour text")

    await cars.write([entry(PatchRecord("cars", "record_id", IDS[0], {"colour": "red"}))])

    assert (await row(cars, IDS[0]))["colour"] == "red"


@pytest.mark.parametrize("kind", ["create", "update"])
async def test_a_column_altered_later_takes_the_value_as_it_is(
    cars: DatabaseManager, owner: asyncpg.Connection, kind: Literal["create", "update"]
) -> None:
    for number, (before, after, value, is_read) in enumerate(ALTERATIONS, 1):
        column = f"value{number}"
        await owner.execute(f"ALTER TABLE cars ADD {column} {before}")
        await cars.write([entry(UpdateRecord("cars", "record_id", IDS[0], {column: None}))])  # now it is known
        await owner.execute(f"ALTER TABLE cars ALTER {column} TYPE {after} USING NULL")

        target = IDS[number] if kind == "create" else IDS[0]
        fields: dict[str, FieldValue] = {"record_id": target, column: value}
        creates = CreateRecord("cars", "record_id", fields)
        await cars.write([entry(creates if kind == "create" else UpdateRecord("cars", "record_id", target, fields))])

        assert (await row(cars, target))[column] == is_read, (before, after)


async def test_a_key_altered_later_finds_its_row(cars: DatabaseManager, owner: asyncpg.Connection) -> None:
    await cars.write([entry(PatchRecord("cars", "seen", 1, {"brand": "b"}))])
    await owner.execute("ALTER TABLE cars ALTER seen TYPE numeric")
    await owner.execute("INSERT INTO cars VALUES ($1, 'other', 2), ($2, 'right', 1.5)", IDS[1], IDS[2])

    await cars.write([entry(PatchRecord("cars", "seen", 1.5, {"brand": "found"}))])

    assert [(await row(cars, IDS[number]))["brand"] for number in (1, 2)] == ["other", "found"]


async def test_a_table_that_was_made_anew_is_found(cars: DatabaseManager, owner: asyncpg.Connection) -> None:
    await owner.execute("DROP TABLE cars")
    await owner.execute("CREATE TABLE cars (record_id uuid PRIMARY KEY, brand int)")

    await cars.write([creation(IDS[1], brand=5), update(IDS[1], brand="6")])

    assert await row(cars, IDS[1]) == {"record_id": IDS[1], "brand": 6}


async def test_where_a_table_is_gone_the_entry_is_to_blame(cars: DatabaseManager, owner: asyncpg.Connection) -> None:
    await owner.execute("DROP TABLE cars")

    with pytest.raises(DatabaseError, match="no table 'cars'"):
        await cars.write([creation(IDS[1], brand="x")])


async def test_a_dot_parts_schema_and_table(database: DatabaseManager, database_config: DatabaseConfig) -> None:
    await database.execute_query("CREATE SCHEMA sales")
    await database.execute_query('CREATE TABLE "sales.visits" (id int, bare int)')
    await database.create_record("sales.visits", {"id": 1, "bare": 1})
    await database.execute_query("CREATE TABLE sales.visits (id int, qualified int)")
    database.throw_away_pool()

    await database.create_record("sales.visits", {"id": 2, "qualified": 2})
    await database.update_record("sales.visits", 2, "id", {"qualified": 3})

    assert await database.get_record("sales.visits", 2, "id") == {"id": 2, "qualified": 3}
    assert await database.execute_query('SELECT id FROM "sales.visits"') == [{"id": 1}]
    url = f"postgresql://{database_config.user}@/{database_config.database}?host={database_config.host}"
    found = (await survey_tables(url, ["sales.visits", "sales.absent", "absent.visits"])).values()
    assert [table and table.name for table in found] == ['"sales"."visits"', None, None]


async def test_any_name_of_a_schema_is_only_a_name(database: DatabaseManager) -> None:
    for schema in ('we"ird', "a'; DROP TABLE x; --", "Ünï"):
        quoted = '"' + schema.replace('"', '""') + '"'
        await database.execute_query(f"CREATE SCHEMA {quoted}")
        name = f'{schema}.ta"b.le'

        await database.ensure_tables({name: {"id": "int"}}, add=True)
        await database.create_record(name, {"id": 1})

        seen = await database.execute_query(f'SELECT id FROM {quoted}."ta""b.le"')  # noqa: S608 - a schema of our own
        assert seen == [{"id": 1}]


async def test_a_bare_name_means_the_first_schema_of_the_search_path(
    database: DatabaseManager, database_config: DatabaseConfig
) -> None:
    await database.execute_query("CREATE SCHEMA sales")
    for schema in ("public", "sales"):
        await database.execute_query(f"CREATE TABLE {schema}.cars (id int)")
    await database.execute_query(f'ALTER DATABASE "{database_config.database}" SET search_path = sales, public')
    database.throw_away_pool()

    await database.create_record("cars", {"id": 1})
    declared = await database.ensure_tables({"vans": {"id": "int"}}, add=True)

    assert await database.execute_query("SELECT id FROM sales.cars") == [{"id": 1}]
    assert declared == ['CREATE TABLE IF NOT EXISTS "sales"."vans" ("id" int)']


async def test_a_declared_table_comes_into_its_schema(database: DatabaseManager) -> None:
    await database.execute_query("CREATE SCHEMA sales")
    wanted = {"sales.visits": {"id": "int"}}

    assert await database.ensure_tables(wanted, add=True) == ['CREATE TABLE IF NOT EXISTS "sales"."visits" ("id" int)']
    more = {"sales.visits": {"id": "int", "brand": "text"}}
    assert await database.ensure_tables(more, add=True) == [
        'ALTER TABLE "sales"."visits" ADD COLUMN IF NOT EXISTS "brand" text'
    ]
    await database.create_record("sales.visits", {"id": 1, "brand": "x"})
    assert await database.ensure_tables(more, add=True) == []


async def test_a_schema_that_is_missing_or_no_place_for_records_is_refused(database: DatabaseManager) -> None:
    for schema in ("absent", "pg_catalog", "information_schema", "detector_worker", "pg_toast"):
        with pytest.raises(DatabaseError, match=f"no schema '{schema}'"):
            await database.ensure_tables({f"{schema}.visits": {"id": "int"}}, add=True)


async def test_tables_of_the_system_and_our_own_stay_closed_by_their_full_name_too(database: DatabaseManager) -> None:
    for table in ("pg_catalog.pg_proc", "information_schema.tables", "detector_worker.delivered", ".", "a.", ".a"):
        with pytest.raises(DatabaseError, match="no table"):
            await database.create_record(table, {"x": 1})


async def test_an_account_that_is_named_like_our_schema_still_finds_its_tables(
    servers: EmbeddedServers, database: DatabaseManager, database_config: DatabaseConfig
) -> None:
    """Its search path begins with our own schema: "$user"."""
    await database.execute_query(
        "DO $$ BEGIN CREATE ROLE detector_worker SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    named = replace(config_of(servers, database_config.database), user="detector_worker")
    async with DatabaseManager(named, auto_migrate=True) as manager:
        await manager.ensure_tables({"cars": {"id": "int"}, "delivered": {"id": "int"}}, add=True)
        await manager.create_record("cars", {"id": 1})
        await manager.write([entry(CreateRecord("delivered", "id", {"id": 2}))])

    assert await database.execute_query("SELECT id FROM public.cars") == [{"id": 1}]
    assert await database.execute_query("SELECT id FROM public.delivered") == [{"id": 2}]
