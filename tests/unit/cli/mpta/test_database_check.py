"""Databases that do not answer, and declarations that would be refused; real ones are in tests/integration."""

import pytest
from support.tiny_models import tiny_pipeline

from detector_worker.cli.mpta.database_check import check_database, declaration_faults
from detector_worker.core.exceptions import DatabaseError
from detector_worker.models.pipeline_config import PipelineConfig, PipelineFile


def config(**tables: dict[str, str]) -> PipelineConfig:
    create = {"type": "postgresql_create_record", "table": "cars", "fields": {"id": "{record_id}", "colour": "red"}}
    archive = tiny_pipeline(actions=[create], branches=[], parallelActions=[], tables=tables)
    return PipelineFile.model_validate(archive).pipeline


@pytest.mark.parametrize(
    "wrong", ["postgresql://u:canary@127.0.0.1:1/x", "mysql://u:canary@h/x", "postgresql://u:canary@[::/x", "canary"]
)
async def test_a_database_that_does_not_answer_is_told_without_its_password(wrong: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        await check_database(config(), wrong)

    assert "canary" not in str(caught.value)


def test_a_declaration_that_would_be_refused_is_a_fault() -> None:
    declared = config(cars={"id": "uuid primary key", "colour": "text; drop table cars"})

    [fault] = declaration_faults(declared)

    assert fault.startswith("pipeline.tables.cars.colour: The declaration")
