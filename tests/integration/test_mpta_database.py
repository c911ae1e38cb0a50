"""Tables and columns, looked up in a real PostgreSQL that is never written to."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

from support.tiny_models import tiny_pipeline, write_tiny_mpta
from typer.testing import CliRunner

from detector_worker.cli.mpta import mpta
from detector_worker.cli.mpta.database_check import Findings, check_database
from detector_worker.models.pipeline_config import PipelineConfig, PipelineFile
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager

CREATE = {"type": "postgresql_create_record", "table": "cars", "fields": {"id": "{record_id}", "colour": "red"}}
UPDATE = {"type": "postgresql_update", "table": "cars", "key_field": "id", "key_value": "{record_id}", "fields": {}}


def config(**keys: Any) -> PipelineConfig:
    plain: dict[str, Any] = {"actions": [CREATE], "branches": [], "parallelActions": [], "tables": {}}
    return PipelineFile.model_validate(tiny_pipeline(**(plain | keys))).pipeline


def url(of: DatabaseConfig) -> str:
    return f"postgresql:///{of.database}?host={quote(of.host, safe='')}&port={of.port}&user={of.user}"


async def findings(database: DatabaseManager, of: DatabaseConfig, **keys: Any) -> Findings:
    await database.execute_query("CREATE TABLE cars (id uuid, color text)")
    return await check_database(config(**keys), url(of))


async def test_a_column_that_is_missing_is_told_with_the_nearest(
    database: DatabaseManager, database_config: DatabaseConfig
) -> None:
    found = await findings(database, database_config)

    assert found.faults == [
        "pipeline.actions[0]: the table 'cars' has no column 'colour', and tables declares none; did you mean 'color'?"
    ]


async def test_what_is_declared_is_only_warned_of(database: DatabaseManager, database_config: DatabaseConfig) -> None:
    found = await findings(database, database_config, tables={"cars": {"id": "uuid", "colour": "text"}})

    assert found.faults == []
    assert found.warnings == [
        "the database lacks column colour of cars; the worker adds it where database.auto_migrate is on"
    ]


async def test_a_table_that_is_missing_is_told_once(database: DatabaseManager, database_config: DatabaseConfig) -> None:
    found = await check_database(config(session={"table": "visits", "keyField": "id"}), url(database_config))

    assert found.faults == [
        "pipeline.actions[0]: the database has no table 'cars', and tables declares none",
        "pipeline.session: the database has no table 'visits', and tables declares none",
    ]


async def test_the_key_of_an_update_is_looked_for_too(
    database: DatabaseManager, database_config: DatabaseConfig
) -> None:
    found = await findings(database, database_config, actions=[UPDATE | {"key_field": "plate"}])

    assert "has no column 'plate'" in found.faults[0]


async def test_nothing_is_written(database: DatabaseManager, database_config: DatabaseConfig) -> None:
    count = "SELECT count(*) AS n FROM pg_class"
    before = await database.execute_query(count)

    await check_database(config(tables={"cars": {"id": "uuid", "colour": "text"}}), url(database_config))

    assert await database.execute_query(count) == before


async def test_validate_tells_what_the_database_lacks(
    tmp_path: Path, database: DatabaseManager, database_config: DatabaseConfig
) -> None:
    archive = write_tiny_mpta(tmp_path / "a.mpta", tables={}, actions=[CREATE], parallelActions=[])

    arguments = ["validate", str(archive), "--database", url(database_config)]
    result = await asyncio.to_thread(CliRunner().invoke, mpta, arguments)

    assert result.exit_code == 2, result.output
    assert "the database has no table 'cars'" in result.stderr
