"""From field templates to values: plain look-ups in a dictionary, nothing else."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from detector_worker.core.entities import FieldValue
from detector_worker.core.exceptions import PipelineError
from detector_worker.models.pipeline_config import Condition
from detector_worker.models.templates import Placeholder, parse_template
from detector_worker.pipeline.context import PipelineContext, branch_succeeded

__all__ = ["FieldMapper", "as_text", "key_column", "template_names"]

BranchResults = Mapping[str, Mapping[str, FieldValue]]


class FieldMapper:
    """Fills templates with what a run knows. Without state."""

    def resolve_fields(
        self,
        field_templates: Mapping[str, Any],
        context: PipelineContext,
        branch_results: BranchResults,
        *,
        extension: str = "jpg",
    ) -> dict[str, FieldValue]:
        """Fill every template; dictionaries and lists inside are filled as well.

        A template that is exactly one placeholder keeps the value's type. A text in which any name is null,
        or has no value in this run, is null as a whole, as SQL's ``||`` has it. Names without a value are
        told in ``context.unresolved``.

        Args:
            field_templates: By column, or by a name of the caller's.
            context: Offers the plain names and the results of actions.
            branch_results: By branch; those of failed branches are not offered.
            extension: Of ``{filename}``.

        Raises:
            PipelineError: A template is no template; nothing was resolved then.
        """
        self._validate_mapping(field_templates)
        names = self._offered_names(context, branch_results, extension)
        return {
            column: self._substitute_variables(template, names, context) for column, template in field_templates.items()
        }

    def holds(self, condition: Condition, context: PipelineContext, branch_results: BranchResults) -> bool:
        """Whether every comparison of a ``when`` holds; a name without a value makes none of them hold."""
        names = self._offered_names(context, branch_results, "jpg")
        if condition.field not in names:
            context.note_unresolved(condition.field)
            return False
        value, given = names[condition.field], condition.model_fields_set
        if "equals" in given and value != condition.equals:
            return False
        if "not_equals" in given and value == condition.not_equals:
            return False
        if condition.at_least is None and condition.at_most is None:
            return True
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (condition.at_least is None or value >= condition.at_least) and (
            condition.at_most is None or value <= condition.at_most
        )

    def _validate_mapping(self, field_templates: Mapping[str, Any]) -> None:
        for column, template in field_templates.items():
            try:
                template_names(template)
            except PipelineError as exc:
                raise PipelineError(exc.what, where=f"field {column}", mend=exc.mend) from exc

    def _offered_names(
        self, context: PipelineContext, branch_results: BranchResults, extension: str
    ) -> dict[str, FieldValue]:
        actions = {
            f"{action}.{name}": value
            for action, results in context.intermediate_results.items()
            for name, value in results.items()
        }
        plain = context.names(extension=extension)
        return {**actions, **self._resolve_branch_results(branch_results), **plain, "uuid": str(uuid.uuid4())}

    def _resolve_branch_results(self, branch_results: BranchResults) -> dict[str, FieldValue]:
        # A failed branch offers nothing: its "type": "timeout" must not become somebody's vehicle type.
        return {
            f"{branch}.{name}": value
            for branch, result in branch_results.items()
            if branch_succeeded(result)
            for name, value in result.items()
        }

    def _substitute_variables(
        self, template: Any, names: Mapping[str, FieldValue], context: PipelineContext
    ) -> FieldValue:
        if isinstance(template, dict):
            return {str(key): self._substitute_variables(inner, names, context) for key, inner in template.items()}
        if isinstance(template, list | tuple):
            return [self._substitute_variables(inner, names, context) for inner in template]
        if not isinstance(template, str):
            number: FieldValue = template
            return number
        parsed = parse_template(template)
        for name in parsed.names:
            if name not in names:
                context.note_unresolved(name)
        if parsed.sole_name is not None:
            return names.get(parsed.sole_name)
        values = [names.get(part.name) if isinstance(part, Placeholder) else part for part in parsed.parts]
        if any(value is None for value in values):
            return None
        return "".join(as_text(value) for value in values)


def template_names(template: Any) -> set[str]:
    """Return every name in a template, or in all templates of a dictionary or list.

    Raises:
        PipelineError: It cannot be parsed.
    """
    if isinstance(template, str):
        return set(parse_template(template).names)
    if isinstance(template, Mapping):
        template = list(template.values())
    if isinstance(template, list | tuple):
        return {name for inner in template for name in template_names(inner)}
    return set()


def as_text(value: FieldValue) -> str:
    """Return a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def key_column(fields: Mapping[str, Any], declarations: Mapping[str, str]) -> str | None:
    """Return the column that names a new row: the one that is ``{record_id}``, else the declared primary key.

    Args:
        fields: Templates by column.
        declarations: Of the table's columns, such as ``uuid primary key``; empty where none are known.
    """
    for column, template in fields.items():
        if template == "{record_id}":
            return column
    keys = [column for column, text in declarations.items() if "primary key" in " ".join(text.lower().split())]
    return next((column for column in keys if column in fields), None)
