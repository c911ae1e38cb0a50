"""The actions of a pipeline: what each kind writes, and the way into the outbox."""

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, assert_never

from detector_worker.core.clock import Clock
from detector_worker.core.entities import FieldValue
from detector_worker.core.exceptions import ActionExecutionError, PipelineError
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import (
    CreateRecord,
    Delivery,
    EnsureTables,
    Outbox,
    PublishMessage,
    RecordPlace,
    SessionEntry,
    SpoolEntry,
    StoreImage,
    UpdateRecord,
)
from detector_worker.models.pipeline_config import (
    ActionConfig,
    PostgresqlCreate,
    PostgresqlUpdate,
    PublishMessageAction,
    RedisSaveImage,
    SessionTarget,
)
from detector_worker.pipeline.context import PipelineContext, branch_succeeded
from detector_worker.pipeline.field_mapper import FieldMapper, Templates, as_text, template_names
from detector_worker.pipeline.pictures import EXTENSIONS, ImageFormat, compress_image, crop_region_from_frame

__all__ = ["ActionExecutor", "ActionType"]

_log: Final = logging.getLogger(__name__)
Tables = Mapping[str, Mapping[str, str]]
"""The pipeline's own declarations: ``{table: {column: declaration}}``."""


class ActionType(StrEnum):
    """The kinds of actions, by their names in an archive."""

    REDIS_SAVE_IMAGE = "redis_save_image"
    POSTGRESQL_CREATE = "postgresql_create_record"
    POSTGRESQL_UPDATE = "postgresql_update"
    PUBLISH_MESSAGE = "publish_message"

    @classmethod
    def _missing_(cls, value: object) -> "ActionType | None":
        aliases = {"postgresql_update_combined": cls.POSTGRESQL_UPDATE, "redis_publish": cls.PUBLISH_MESSAGE}
        return aliases.get(str(value))


class ActionExecutor:
    """Carries out the actions of one pipeline; on the event loop, any number of runs at once.

    What one action wants written is ``pending`` in the context until `execute_actions` has all of it accepted. The
    idempotency key is ``<record_id>:<action_id>``, so that a run that is made again writes nothing twice. Every
    action may raise a `PipelineError` where it cannot be carried out.
    """

    def __init__(self, *, outbox: Outbox, clock: Clock, tables: Tables, session: SessionTarget | None = None) -> None:
        """``session``: the row that a patch of a visit's session changes; None: the visit's own."""
        self._outbox, self._clock, self._tables, self._mapper = outbox, clock, tables, FieldMapper()
        self._session_target = session

    async def declare_tables(self) -> None:
        """Have the pipeline's tables and columns added where they are missing; once, before its first run."""
        if self._tables:
            key = f"tables:{uuid.uuid4()}"  # each time anew: the database may be another one since
            await self._outbox.accept([SpoolEntry(key, key, self._clock.utc_s(), EnsureTables(self._tables))])

    async def execute_actions(self, actions: Sequence[ActionConfig], frame: Frame, context: PipelineContext) -> None:
        """Carry out actions in their order; all that they write is accepted together, with the visit and its session.

        An action that fails is told in the context and does not keep the others from being carried out. Where the
        outbox refuses, its `ServiceError` is raised, and nothing of these actions was accepted.
        """
        for action in actions:
            try:
                await self.execute_action(action, frame, context)
            except PipelineError as exc:
                context.has_failed_action = True
                context.warnings.append(str(exc))
            except Exception:  # noqa: BLE001 - one action's boundary: a picture that fails must not cost the record
                _log.exception("Action %s of visit %s failed", action.result_name, context.record_id)
                context.has_failed_action = True
                context.warnings.append(f"{action.result_name}: an unexpected error; the log has the details")
        entries, context.pending = context.pending, []
        if entries or context.saved_visit is not None:
            session = self._session_entry(entries, context)
            await self._outbox.accept(entries, visit=context.saved_visit, session=session)
            context.session_entry = session or context.session_entry
        context.saved_visit = None  # only now: a visit whose record was refused must not count as recorded
        for entry in entries:
            if isinstance(entry.delivery, CreateRecord | UpdateRecord):
                context.fields.update(entry.delivery.fields)

    async def execute_action(self, action: ActionConfig, frame: Frame, context: PipelineContext) -> None:
        """Carry out one action, if its ``when`` holds; its results are in the context for later templates."""
        if action.when is not None and not self._mapper.holds(action.when, context, context.branch_results):
            return
        name = action.result_name
        match action:
            case RedisSaveImage(region=region, key=key, expire_seconds=expire_s, format=kind, quality=quality):
                await self.redis_save_image(
                    frame, region, key, context, expire_s, image_format=kind, quality=quality, action_id=name
                )
            case PostgresqlCreate():
                await self.postgresql_create(action.table, action.fields, context, action_id=name)
            case PostgresqlUpdate():
                await self.postgresql_update(action, context)
            case PublishMessageAction():
                await self.publish_message(action, context)
            case _:
                assert_never(action)

    async def redis_save_image(
        self,
        frame: Frame,
        region: str,
        key_template: str,
        context: PipelineContext,
        expire_seconds: int,
        *,
        image_format: ImageFormat = "jpeg",
        quality: int = 90,
        action_id: str = ActionType.REDIS_SAVE_IMAGE,
    ) -> str | None:
        """Store the picture of a region and return its key; a class that was not seen is a warning, and None."""
        found = context.find_region(region, frame)
        if found is None:
            context.warnings.append(f"{action_id}: no {region!r} was seen, so no picture of it is stored")
            return None
        key = as_text(self._required("key", key_template, context, action_id, extension=EXTENSIONS[image_format]))

        def compress() -> tuple[bytes, str]:
            image = compress_image(crop_region_from_frame(*found), image_format, quality=quality)
            return image, hashlib.sha256(image).hexdigest()

        image, sha256 = await asyncio.to_thread(compress)
        delivery = StoreImage(key, image, expire_seconds, captured_at=found[0].captured_at, sha256=sha256)
        self._write(delivery, action_id, context)
        context.intermediate_results[action_id] = {"key": key}
        return key

    async def postgresql_create(
        self, table: str, fields: Templates, context: PipelineContext, *, action_id: str = ActionType.POSTGRESQL_CREATE
    ) -> FieldValue:
        """Insert the visit's row and return the value of its key column."""
        key_field = self._key_field(table, fields, context, action_id)
        values = self._mapper.resolve_fields(fields, context, context.branch_results)
        self._write(CreateRecord(table, key_field, values), action_id, context)
        context.intermediate_results[action_id] = {"key": values[key_field], "record_id": context.record_id}
        return values[key_field]

    async def postgresql_update(self, action: PostgresqlUpdate, context: PipelineContext) -> None:
        """Complete the visit's row; columns whose branch gave nothing become NULL, with a warning."""
        name, results = action.result_name, context.branch_results
        key = self._required("key_value", action.key_value, context, name)
        values = self._mapper.resolve_fields(action.fields, context, results)
        named = {field.rpartition(".")[0] for field in template_names(action.fields)} - {"", "bbox"}
        for source in sorted(named) if action.wait_for_branches is None else action.wait_for_branches:
            if source not in context.intermediate_results and not branch_succeeded(results.get(source, {})):
                text = f"{name}: {source!r} gave no result, so its columns of {action.table!r} are NULL"
                context.warnings.append(text)
        self._write(UpdateRecord(action.table, action.key_field, key, values), name, context)

    async def publish_message(self, action: PublishMessageAction, context: PipelineContext) -> None:
        """Publish a message, a dictionary as JSON; not delivered once it is older than the action allows."""
        name = action.result_name
        channel = as_text(self._required("channel", action.channel, context, name))
        message = as_text(self._required("message", action.message, context, name))
        self._write(PublishMessage(channel, message, action.max_age_seconds), name, context)

    def _session_entry(self, entries: Sequence[SpoolEntry], context: PipelineContext) -> SessionEntry | None:
        """Return what the session is to know of this visit; None where it knows it already."""
        known = context.session_entry
        if known is not None and known.place is not None:
            return None
        place = self._place(entries, context)
        entry = SessionEntry(context.session_id, context.camera_id, context.record_id, place)
        return None if entry == known else entry

    def _place(self, entries: Sequence[SpoolEntry], context: PipelineContext) -> RecordPlace | None:
        if self._session_target is not None:
            return RecordPlace(self._session_target.table, self._session_target.key_field, context.session_id)
        rows = (entry.delivery for entry in entries if isinstance(entry.delivery, CreateRecord))
        places = (RecordPlace(row.table, row.key_field, row.fields[row.key_field]) for row in rows)
        return next((place for place in places if place.key_value is not None), None)

    def _key_field(self, table: str, fields: Templates, context: PipelineContext, action_id: str) -> str:
        """Return the column that names a new row: the one that is ``{record_id}``, else the declared primary key."""
        declared = self._tables.get(table, {}).items()
        keys = [name for name, template in fields.items() if template == "{record_id}"]
        keys += [name for name, text in declared if name in fields and "primary key" in " ".join(text.lower().split())]
        if not keys:
            keys = list(fields)
            text = f"{action_id}: no column of {table!r} is '{{record_id}}' or a declared key; {keys[0]!r} is taken"
            context.warnings.append(text)
        return keys[0]

    def _required(
        self, name: str, template: Any, context: PipelineContext, action_id: str, *, extension: str = "jpg"
    ) -> FieldValue:
        templates = {name: template}
        value = self._mapper.resolve_fields(templates, context, context.branch_results, extension=extension)[name]
        if value is None:
            what = f"The {name} {str(template)[:80]!r} has no value in this run"
            mend = "Use names there that every run has, such as {record_id}; or give the action a `when`."
            raise ActionExecutionError(what, where=f"action {action_id}", mend=mend)
        return value

    def _write(self, delivery: Delivery, action_id: str, context: PipelineContext) -> None:
        key, record_id = f"{context.record_id}:{action_id}", context.record_id
        context.pending.append(SpoolEntry(key, record_id, self._clock.utc_s(), delivery))
