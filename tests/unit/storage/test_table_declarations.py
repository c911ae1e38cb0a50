import pytest

from detector_worker.core.entities import FieldValue
from detector_worker.core.exceptions import DatabaseError
from detector_worker.storage.postgresql.catalogue import as_text, quote_identifier
from detector_worker.storage.postgresql.table_declarations import check_declaration, statements_to_add

CARS = '"public"."cars"'


@pytest.mark.parametrize(
    "declaration",
    [
        "uuid primary key",
        "text",
        "TEXT NOT NULL",
        "timestamptz",
        "timestamp(3) with time zone not null",
        "timestamp without time zone",
        "varchar(20)",
        "character varying (20) unique",
        "numeric(10, 2)",
        "double  precision",
        "int4",
        "jsonb default '{}'",
        "boolean not null default false",
        "timestamptz default now()",
        "numeric default -1.5",
        "text default 'a;b'",
    ],
)
def test_common_declarations_are_taken_as_they_are(declaration: str) -> None:
    assert check_declaration(declaration, where="here") == declaration


@pytest.mark.parametrize(
    "declaration",
    [
        "",
        "text; drop table cars",
        "text) ; drop table cars --",
        "text -- comment",
        "text /* comment */",
        "text references cars(record_id)",
        "text check (true)",
        "text default (select rolpassword from pg_authid limit 1)",
        "text default pg_read_file('/etc/passwd')",
        "text default 'it''s'",
        "text default 'a\\'",
        "text default 'a' || 'b'",
        "text generated always as (1) stored",
        'text collate "C"',
        "text\nprimary key",
        "text\x00",
        "regclass",
        "varchar(-1)",
        "numeric(1,2,3)",
        "\u017fmallint",
        "serialtext",
        "text primary",
    ],
)
def test_anything_else_is_refused_by_name(declaration: str) -> None:
    with pytest.raises(DatabaseError, match="table cars, column x"):
        check_declaration(declaration, where="table cars, column x")


def test_only_what_is_missing_is_added() -> None:
    assert statements_to_add(CARS, {"a": "uuid", "b": "int"}, {"a": "text"}) == [
        'ALTER TABLE "public"."cars" ADD COLUMN IF NOT EXISTS "b" int'
    ]
    assert statements_to_add(CARS, {"a": "uuid"}, {"a": "text"}) == []
    assert statements_to_add(CARS, {"a": "uuid", "b": "int"}, None) == [
        'CREATE TABLE IF NOT EXISTS "public"."cars" ("a" uuid, "b" int)'
    ]


def test_a_quote_in_a_name_stays_inside_the_name() -> None:
    assert quote_identifier('a"; drop table x; --') == '"a""; drop table x; --"'


@pytest.mark.parametrize("name", ["", "a\x00b", "x" * 64, "ü" * 32])
def test_a_name_that_postgresql_would_cut_or_refuse_is_refused(name: str) -> None:
    with pytest.raises(DatabaseError, match="cannot be a"):
        quote_identifier(name)


def test_values_become_the_text_that_postgresql_reads() -> None:
    values: list[FieldValue] = [None, "x", True, False, 7, 1.5, [1, "a"], {"k": None}]

    assert [as_text(value) for value in values] == [None, "x", "true", "false", "7", "1.5", '[1,"a"]', '{"k":null}']
