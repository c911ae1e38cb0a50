"""Batches of records: in their order, once in effect, all or nothing; and whose fault it is where that fails."""

import asyncio
import math
from typing import Any
from uuid import uuid4

import pytest
from support.spooling import creation, update
from support.waiting import wait_until

from detector_worker.core.entities import FieldValue
from detector_worker.core.exceptions import DatabaseError
from detector_worker.core.outbox import CreateRecord, PatchRecord, SpoolEntry
from detector_worker.storage.database_manager import DatabaseManager
from detector_worker.storage.faults import TransientDatabaseError

FATES = {
    "0A000": "dead letter",  # what this server cannot do
    "20000": "dead letter",  # a trigger's CASE without its case
    "21000": "dead letter",
    "22P02": "dead letter",
    "23514": "dead letter",
    "2F005": "dead letter",  # a function that ends without RETURN
    "39004": "dead letter",
    "3F000": "dead letter",  # a trigger that names a schema which is gone
    "42703": "dead letter",
    "44000": "dead letter",
    "54000": "dead letter",  # too long for an index
    "P0001": "dead letter",  # a trigger's own RAISE
    "40001": "again",
    "53100": "again",  # the disk is full
    "53200": "again",
    "55P03": "again",  # a lock was not to be had
    "58030": "again",
    "25006": "anew",  # it is a standby now
    "57P01": "anew",  # it is shutting down
    "57P03": "anew",  # it is starting
    "57014": "again",  # a statement was too slow
    "08006": "anew",
    "XX000": "again",
}


@pytest.fixture
async def cars(database: DatabaseManager) -> DatabaseManager:
    await database.execute_query("CREATE TABLE cars (record_id uuid PRIMARY KEY, brand text, seen int)")
    return database


def patch(record_id: str, *, name: str = "patch", key_field: str = "record_id", **fields: FieldValue) -> SpoolEntry:
    delivery = PatchRecord("cars", key_field, record_id, fields)
    return SpoolEntry(f"{record_id}:{name}", f"session of {record_id}", 0.0, delivery)


async def row(database: DatabaseManager, record_id: str) -> dict[str, Any]:
    found = await database.get_record("cars", record_id, "record_id")
    assert found is not None
    return found


async def is_locked(database: DatabaseManager) -> bool:
    held = "SELECT 1 FROM pg_locks WHERE relation = 'cars'::regclass AND mode = 'AccessExclusiveLock' AND granted"
    return bool(await database.execute_query(held))


async def test_a_patch_sets_the_fields_that_are_columns_and_passes_over_the_others(cars: DatabaseManager) -> None:
    record_id = str(uuid4())
    await cars.write([creation(record_id, brand="a", seen=1), patch(record_id, brand="b", colour="red", notes={})])

    assert await row(cars, record_id) == {"record_id": record_id, "brand": "b", "seen": 1}


async def test_a_patch_without_a_column_does_nothing_whether_there_is_a_row_or_not(cars: DatabaseManager) -> None:
    await cars.write([patch(str(uuid4()), colour="red"), patch(str(uuid4()))])

    assert await cars.execute_query("SELECT 1 FROM cars") == []


async def test_a_patch_without_a_row_or_a_key_is_an_error(cars: DatabaseManager) -> None:
    for entry in (patch(str(uuid4()), brand="b"), patch("x", key_field="no such key", brand="b")):
        with pytest.raises(DatabaseError, match=r"found no row|no column 'no such key'") as caught:
            await cars.write([entry])
        assert not isinstance(caught.value, TransientDatabaseError)


async def test_writes_of_one_row_keep_their_order_whichever_visit_they_are_of(cars: DatabaseManager) -> None:
    first, second = str(uuid4()), str(uuid4())
    batch = [
        creation(first, brand="0"),
        patch(first, name="1", brand="1"),  # of the first one's session: a statement that also takes the next patch
        creation(second, brand="0", seen=0),
        patch(second, name="1", brand="1"),
        update(first, brand="2"),
        patch(second, name="2", brand="2"),
    ]

    await cars.write(batch)

    assert [(await row(cars, one))["brand"] for one in (first, second)] == ["2", "2"]


async def test_rows_whose_key_the_server_makes_go_in_one_statement(database: DatabaseManager) -> None:
    await database.execute_query("CREATE TABLE cars (id int GENERATED ALWAYS AS IDENTITY, brand text)")
    await database.execute_query("CREATE TABLE statements (id int GENERATED ALWAYS AS IDENTITY)")
    await database.execute_query(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO statements DEFAULT VALUES; RETURN NULL; END'"
    )
    await database.execute_query("CREATE TRIGGER note AFTER INSERT ON cars EXECUTE FUNCTION note()")

    await database.write(
        [SpoolEntry(f"k{n}", f"v{n}", 0.0, CreateRecord("cars", "id", {"brand": f"{n}"})) for n in range(100)]
    )

    assert await database.execute_query("SELECT count(*) AS n FROM cars") == [{"n": 100}]
    assert await database.execute_query("SELECT count(*) AS n FROM statements") == [{"n": 1}]


async def test_a_batch_is_written_as_a_whole_or_not_at_all(cars: DatabaseManager) -> None:
    good = [creation(str(uuid4()), brand="a") for _ in range(10)]
    poison = creation(str(uuid4()), brand="a", seen="not a number")
    with pytest.raises(DatabaseError, match="not a number"):
        await cars.write([*good, poison])
    assert await cars.execute_query("SELECT 1 FROM cars") == []

    await cars.write(good)
    await cars.write([*good, creation(str(uuid4()), brand="a")])

    assert await cars.execute_query("SELECT count(*) AS n FROM cars") == [{"n": 11}]


async def test_values_that_json_does_not_know_arrive_as_they_are(database: DatabaseManager) -> None:
    await database.execute_query("CREATE TABLE odd (id int, far numeric, part float8, name text)")
    values: list[tuple[FieldValue, FieldValue, FieldValue]] = [
        (2**80, math.inf, '\u2028 \\ " \x01 NULL {} ,'),
        (-(2**80), -math.inf, "null"),
        (0.1, math.nan, ""),
        (None, None, None),
    ]
    for number, (far, part, name) in enumerate(values):
        await database.create_record("odd", {"id": number, "far": far, "part": part, "name": name})

    rows = await database.execute_query("SELECT far::text, part::text, name FROM odd ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [
        (str(2**80), "Infinity", '\u2028 \\ " \x01 NULL {} ,'),
        (str(-(2**80)), "-Infinity", "null"),
        ("0.1", "NaN", ""),
        (None, None, None),
    ]


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
async def test_text_that_postgresql_cannot_hold_is_the_record_s_fault(cars: DatabaseManager, text: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        await cars.create_record("cars", {"record_id": str(uuid4()), "brand": text})

    assert not isinstance(caught.value, TransientDatabaseError)


async def test_whose_fault_it_is_tells_the_sqlstate(cars: DatabaseManager) -> None:
    await cars.execute_query(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RAISE EXCEPTION USING ERRCODE = NEW.brand; END'"
    )
    await cars.execute_query("CREATE TRIGGER fail BEFORE INSERT ON cars FOR EACH ROW EXECUTE FUNCTION fail()")
    fates = {}

    for sqlstate in FATES:
        with pytest.raises(DatabaseError, match=sqlstate) as caught:
            await cars.write([creation(str(uuid4()), brand=sqlstate)])
        is_thrown_away = cars._pool._opened is None
        is_transient = isinstance(caught.value, TransientDatabaseError)
        fates[sqlstate] = "anew" if is_thrown_away else "again" if is_transient else "dead letter"

    assert fates == FATES


async def test_a_view_that_takes_no_rows_is_the_record_s_fault(cars: DatabaseManager) -> None:
    await cars.execute_query("CREATE VIEW brands AS SELECT DISTINCT brand FROM cars")

    with pytest.raises(DatabaseError, match="cannot insert into view") as caught:
        await cars.create_record("brands", {"brand": "x"})

    assert not isinstance(caught.value, TransientDatabaseError)


async def test_a_row_that_a_trigger_keeps_back_is_no_fault(cars: DatabaseManager) -> None:
    await cars.execute_query("CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    await cars.execute_query("CREATE TRIGGER skip BEFORE INSERT ON cars FOR EACH ROW EXECUTE FUNCTION skip()")

    await cars.write([creation(str(uuid4()))])

    assert await cars.execute_query("SELECT 1 FROM cars") == []


async def test_a_column_altered_while_the_write_waits_for_its_lock_takes_the_value_as_it_is(
    cars: DatabaseManager,
) -> None:
    record_id = str(uuid4())
    await cars.write([creation(str(uuid4()), seen=1)])
    alter = "DO 'BEGIN ALTER TABLE cars ALTER seen TYPE numeric; PERFORM pg_sleep(0.3); END'"
    altering = asyncio.create_task(cars.execute_query(alter))
    await wait_until(lambda: is_locked(cars))

    await cars.write([creation(record_id, seen=10.7)])

    await altering
    assert (await row(cars, record_id))["seen"] == 10.7
