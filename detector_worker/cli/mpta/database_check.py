"""Whether a database has what the actions of a pipeline name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from detector_worker.core.exceptions import DatabaseError
from detector_worker.models.pipeline_config import PipelineConfig, PostgresqlCreate, PostgresqlUpdate
from detector_worker.models.pipeline_json.document import printable
from detector_worker.models.pipeline_json.schema import did_you_mean
from detector_worker.storage.postgresql.catalogue import Table
from detector_worker.storage.postgresql.table_declarations import check_declaration
from detector_worker.storage.postgresql.table_survey import survey_tables

__all__ = ["Findings", "check_database", "declaration_faults"]


@dataclass(slots=True)
class Findings:
    """What a database lacks, and what a worker would add to it if it may."""

    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def declaration_faults(config: PipelineConfig) -> Iterator[str]:
    """Find declarations under ``tables`` that the worker refuses to carry out."""
    for table, columns in config.tables.items():
        for column, declaration in columns.items():
            try:
                check_declaration(declaration, where="")
            except DatabaseError as exc:
                yield f"pipeline.tables.{printable(table)}.{printable(column)}: {exc.what}. {exc.mend}"


async def check_database(config: PipelineConfig, url: str) -> Findings:
    """Compare the tables and columns that a pipeline uses with those of a database.

    Raises:
        DatabaseError: It cannot be connected to, or asked.
    """
    used = dict[tuple[str, str], str]()
    for path, action in config.all_actions().items():
        if isinstance(action, PostgresqlCreate | PostgresqlUpdate):
            key = [action.key_field] if isinstance(action, PostgresqlUpdate) else []
            for column in (*key, *action.fields):
                used.setdefault((action.table, column), path)
    if config.session is not None:
        used.setdefault((config.session.table, config.session.key_field), "pipeline.session")
    existing = await survey_tables(url, dict.fromkeys([table for table, _ in used]))
    findings, told = Findings(), set[str]()
    for (name, column), path in used.items():
        table, declared = existing[name], config.tables.get(name, {})
        if table is None and name not in config.tables:
            if name not in told:
                findings.faults.append(f"{path}: the database has no table {name[:80]!r}, and tables declares none")
            told.add(name)
        elif column not in declared and (table is None or column not in table.types):
            known = {*declared, *(table.types if table else ())}
            what = f"the table {name[:80]!r} has no column {column[:80]!r}, and tables declares none"
            findings.faults.append(f"{path}: {what}{did_you_mean(column, sorted(known))}")
    findings.warnings += _additions(config, existing)
    return findings


def _additions(config: PipelineConfig, existing: Mapping[str, Table | None]) -> Iterator[str]:
    """Yield what is declared and not there: a worker adds it where ``database.auto_migrate`` is on."""
    for name, columns in config.tables.items():
        if name not in existing:
            continue
        table = existing[name]
        missing = [column for column in columns if table is None or column not in table.types]
        if missing:
            what = "column" + "s" * (len(missing) > 1) + " " + ", ".join(printable(column) for column in missing[:12])
            what = f"the table {printable(name)}" if table is None else f"{what} of {printable(name)}"
            yield f"the database lacks {what}; the worker adds it where database.auto_migrate is on"
