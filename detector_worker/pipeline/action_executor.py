"""The actions of a pipeline: what each kind writes, and the way into the outbox."""

import asyncio
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
)
from detector_worker.pipeline.context import PipelineContext, RunBlocking, branch_succeeded
from detector_worker.pipeline.field_mapper import FieldMapper, as_text, key_column, template_names
from detector_worker.pipeline.pictures import EXTENSIONS, ImageFormat, compress_image, crop_region_from_frame

__all__ = ["ActionExecutor", "ActionType"]

_log: Final = logging.getLogger(__name__)
_PICTURE_TIMEOUT_S: Final = 10.0
"""A picture that is not made by then is left out: the record behind it does not wait for a stuck thread."""

Batch = list[SpoolEntry]


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

    Each method that writes takes a ``batch``: with one, its entry is added there for a common acceptance;
    without, the entry is on disk when the method returns. The idempotency key is always
    ``<record_id>:<action_id>``, so that a run that is made again writes nothing twice.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        mapper: FieldMapper,
        run_blocking: RunBlocking,
        clock: Clock,
        tables: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Wire an executor.

        Args:
            outbox: Takes what is written.
            mapper: Fills the templates.
            run_blocking: Hands the making of pictures to a thread.
            clock: Stamps the entries.
            tables: The pipeline's own declarations, ``{table: {column: declaration}}``; may be empty.
        """
        self._outbox, self._mapper, self._run_blocking = outbox, mapper, run_blocking
        self._clock, self._tables = clock, tables

    async def declare_tables(self) -> None:
        """Have the pipeline's tables and columns added where they are missing; once, before its first run.

        Raises:
            ServiceError: The outbox refused.
        """
        if self._tables:
            key = f"tables:{uuid.uuid4()}"  # each time anew: the database may be another one since
            await self._outbox.accept([SpoolEntry(key, key, self._clock.utc_s(), EnsureTables(self._tables))])

    async def execute_actions(self, actions: Sequence[ActionConfig], frame: Frame, context: PipelineContext) -> None:
        """Carry out actions in their order; all that they write is accepted together, and the visit with it.

        An action that fails is told in the context and does not keep the others from being carried out.

        Raises:
            ServiceError: The outbox refused; nothing of these actions was accepted.
        """
        batch: Batch = []
        for action in actions:
            try:
                await self.execute_action(action, frame, context, batch=batch)
            except PipelineError as exc:
                context.has_failed_action = True
                context.warn(str(exc))
            except Exception:  # noqa: BLE001 - one action's boundary: a picture that fails must not cost the record
                _log.exception("Action %s of visit %s failed", action.result_name, context.record_id)
                context.has_failed_action = True
                context.warn(f"{action.result_name}: an unexpected error; the log has the details")
        await self._accept(batch, context)

    async def execute_action(
        self, action: ActionConfig, frame: Frame, context: PipelineContext, *, batch: Batch | None = None
    ) -> Mapping[str, FieldValue]:
        """Carry out one action.

        Returns:
            What later templates find under the action's name; empty where its ``when`` did not hold, or where
            there was nothing to write.

        Raises:
            PipelineError: The action cannot be carried out.
            ServiceError: Without a batch: the outbox refused.
        """
        if action.when is not None and not self._mapper.holds(action.when, context, context.branch_results):
            return {}
        results = await self._carry_out(action, frame, context, batch)
        if results:
            context.intermediate_results[action.result_name] = results
        return results

    async def _carry_out(
        self, action: ActionConfig, frame: Frame, context: PipelineContext, batch: Batch | None
    ) -> dict[str, FieldValue]:
        name = action.result_name
        match action:
            case RedisSaveImage():
                stored = await self.redis_save_image(
                    frame,
                    action.region,
                    action.key,
                    context,
                    action.expire_seconds,
                    image_format=action.format,
                    quality=action.quality,
                    action_id=name,
                    batch=batch,
                )
                return {} if stored is None else {"key": stored}
            case PostgresqlCreate():
                key = await self.postgresql_create(action.table, action.fields, context, action_id=name, batch=batch)
                return {"key": key, "record_id": context.record_id}
            case PostgresqlUpdate():
                await self.postgresql_update(action, context, batch=batch)
            case PublishMessageAction():
                await self.publish_message(action, context, batch=batch)
            case _:
                assert_never(action)
        return {}

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
        batch: Batch | None = None,
    ) -> str | None:
        """Store the picture of a region: ``frame``, ``best``, or a class name; return its key.

        Returns:
            None where no such class was seen: told as a warning, nothing is stored.

        Raises:
            ActionExecutionError: The picture could not be made, or its key has no value.
        """
        found = context.find_region(region, frame)
        if found is None:
            context.warn(f"{action_id}: no {region!r} was seen, so no picture of it is stored")
            return None
        key = self._required_text("key", key_template, context, action_id, extension=EXTENSIONS[image_format])
        source, box = found

        def make_picture() -> bytes:
            return compress_image(crop_region_from_frame(source, box), image_format, quality=quality)

        try:
            async with asyncio.timeout(_PICTURE_TIMEOUT_S):
                image = await self._run_blocking(make_picture)
        except TimeoutError as exc:
            raise ActionExecutionError(
                f"The picture was not made within {_PICTURE_TIMEOUT_S:g} s",
                where=f"action {action_id}",
                mend="The machine is overloaded: analyse fewer cameras or fewer frames per second.",
            ) from exc
        await self._leave(StoreImage(key, image, expire_seconds), action_id, context, batch)
        return key

    async def postgresql_create(
        self,
        table: str,
        fields: Mapping[str, Any],
        context: PipelineContext,
        *,
        action_id: str = ActionType.POSTGRESQL_CREATE,
        batch: Batch | None = None,
    ) -> FieldValue:
        """Insert the visit's row and return the value of its key column.

        Raises:
            PipelineError: A template is none, or there is no column at all.
        """
        if not fields:
            raise ActionExecutionError(
                f"Nothing is written into {table!r}", where=f"action {action_id}", mend="Give it `fields`."
            )
        values = self._mapper.resolve_fields(fields, context, context.branch_results)
        key_field = key_column(fields, self._tables.get(table, {}))
        if key_field is None:
            key_field = next(iter(fields))
            context.warn(
                f"{action_id}: no column of {table!r} is '{{record_id}}' or a declared key; {key_field!r} is taken"
            )
        await self._leave(CreateRecord(table, key_field, values), action_id, context, batch)
        return values[key_field]

    async def postgresql_update(
        self, action: PostgresqlUpdate, context: PipelineContext, *, batch: Batch | None = None
    ) -> None:
        """Complete the visit's row; columns whose branch gave nothing become NULL, with a warning.

        Raises:
            PipelineError: A template is none, or the key has no value.
        """
        name, results = action.result_name, context.branch_results
        values = self._mapper.resolve_fields(action.fields, context, results)
        key = self._mapper.resolve_fields({"key_value": action.key_value}, context, results)["key_value"]
        if key is None:
            raise _no_value("key_value", action.key_value, name)
        named = {field.rpartition(".")[0] for field in template_names(action.fields)} - {"", "bbox"}
        for source in sorted(named) if action.wait_for_branches is None else action.wait_for_branches:
            if source not in context.intermediate_results and not branch_succeeded(results.get(source, {})):
                context.warn(f"{name}: {source!r} gave no result, so its columns of {action.table!r} are NULL")
        await self._leave(UpdateRecord(action.table, action.key_field, key, values), name, context, batch)

    async def publish_message(
        self, action: PublishMessageAction, context: PipelineContext, *, batch: Batch | None = None
    ) -> None:
        """Publish a message, a dictionary as JSON; not delivered once it is older than the action allows.

        Raises:
            PipelineError: A template is none, or channel or message have no value.
        """
        name = action.result_name
        channel = self._required_text("channel", action.channel, context, name)
        message = self._required_text("message", action.message, context, name)
        await self._leave(PublishMessage(channel, message, action.max_age_seconds), name, context, batch)

    def _required_text(
        self, name: str, template: Any, context: PipelineContext, action_id: str, *, extension: str = "jpg"
    ) -> str:
        resolved = self._mapper.resolve_fields({name: template}, context, context.branch_results, extension=extension)
        if resolved[name] is None:
            raise _no_value(name, template, action_id)
        return as_text(resolved[name])

    async def _leave(self, delivery: Delivery, action_id: str, context: PipelineContext, batch: Batch | None) -> None:
        entry = SpoolEntry(f"{context.record_id}:{action_id}", context.record_id, self._clock.utc_s(), delivery)
        if batch is None:
            await self._accept([entry], context)
        else:
            batch.append(entry)

    async def _accept(self, batch: Batch, context: PipelineContext) -> None:
        visit = context.saved_visit
        if batch or visit is not None:
            await self._outbox.accept(batch, visit=visit)
        context.saved_visit = None  # only now: a visit whose record was refused must not count as recorded
        for entry in batch:
            if isinstance(entry.delivery, CreateRecord | UpdateRecord):
                context.fields.update(entry.delivery.fields)


def _no_value(name: str, template: object, action_id: str) -> ActionExecutionError:
    return ActionExecutionError(
        f"The {name} {str(template)[:80]!r} has no value in this run",
        where=f"action {action_id}",
        mend="Use names there that every run has, such as {record_id}; or give the action a `when`.",
    )
