"""From field templates to values: plain look-ups in a dictionary, nothing else."""

import json
import math
import uuid
from collections.abc import Mapping
from typing import Any, Final, cast

from detector_worker.core.clock import rfc3339
from detector_worker.core.entities import FieldValue
from detector_worker.models.pipeline_config import Condition
from detector_worker.models.pipeline_json.templates import Placeholder, parse_template
from detector_worker.pipeline.context import PipelineContext, branch_succeeded

__all__ = ["FieldMapper", "Templates", "as_text", "template_names"]

Templates = Mapping[str, Any]
Names = dict[str, FieldValue]
Results = Mapping[str, Mapping[str, FieldValue]]
"""By the branch or action that gave them."""

_CONTEXT_FIELDS: Final = ("camera_id", "display_id", "record_id", "session_id", "frame_id", "track_id", "model_id")


class FieldMapper:
    """Fills templates with what a run knows. Without state."""

    def resolve_fields(
        self, field_templates: Templates, context: PipelineContext, branch_results: Results, *, extension: str = "jpg"
    ) -> dict[str, FieldValue]:
        """Fill every template, those inside of dictionaries and lists too; ``extension`` is that of ``{filename}``.

        A template that is exactly one placeholder keeps the value's type. A text in which any name is null,
        or has no value in this run, is null as a whole, as SQL's ``||`` has it. Names without a value are
        told in ``context.unresolved``. Where a template is none, nothing is resolved, and a `PipelineError` raised.
        """
        self._validate_mapping(field_templates)
        names = self._offered_names(context, branch_results, extension)
        return {name: self._substitute_variables(text, names, context) for name, text in field_templates.items()}

    def holds(self, condition: Condition, context: PipelineContext, branch_results: Results) -> bool:
        """True if every comparison of a ``when`` holds; a name without a value makes none of them hold."""
        names = self._offered_names(context, branch_results, "jpg")
        if condition.field not in names:
            context.unresolved.append(condition.field)
            return False
        value, given = names[condition.field], condition.model_fields_set
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        return (
            ("equals" not in given or value == condition.equals)
            and ("not_equals" not in given or value != condition.not_equals)
            and (condition.at_least is None or number >= condition.at_least)
            and (condition.at_most is None or number <= condition.at_most)
        )

    def _validate_mapping(self, field_templates: Templates) -> None:
        template_names(field_templates)  # parses all of them

    def _offered_names(self, context: PipelineContext, branch_results: Results, extension: str) -> Names:
        whole = context.detections[0]
        return {
            **_dotted(context.intermediate_results),
            **self._resolve_branch_results(branch_results),
            **_dotted({"bbox": {side: getattr(whole.bounding_box, side) for side in ("x1", "y1", "x2", "y2")}}),
            **{name: getattr(context, name) for name in _CONTEXT_FIELDS},
            "timestamp": rfc3339(context.timestamp),
            "filename": f"{context.record_id}.{extension}",
            "class_name": whole.class_name,
            "confidence": whole.confidence,
            "uuid": str(uuid.uuid4()),
        }

    def _resolve_branch_results(self, branch_results: Results) -> Names:
        # A failed branch offers nothing: its "type": "timeout" must not become somebody's vehicle type.
        return _dotted({branch: result for branch, result in branch_results.items() if branch_succeeded(result)})

    def _substitute_variables(self, template: Any, names: Names, context: PipelineContext) -> FieldValue:
        if isinstance(template, dict):
            return {str(key): self._substitute_variables(inner, names, context) for key, inner in template.items()}
        if isinstance(template, list):
            return [self._substitute_variables(inner, names, context) for inner in template]
        if not isinstance(template, str):
            return cast("FieldValue", template)
        parsed = parse_template(template)
        context.unresolved += [name for name in parsed.names if name not in names]
        if parsed.sole_name is not None:
            return names.get(parsed.sole_name)
        values = [names.get(part.name) if isinstance(part, Placeholder) else part for part in parsed.parts]
        return None if None in values else "".join(as_text(value) for value in values)


def template_names(template: Any) -> set[str]:
    """Return every name in a template, or in all templates of a dictionary or list; may raise a `PipelineError`."""
    if isinstance(template, str):
        return set(parse_template(template).names)
    if isinstance(template, Mapping):
        template = list(template.values())
    return {name for part in template for name in template_names(part)} if isinstance(template, list) else set()


def as_text(value: FieldValue) -> str:
    """Return a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _dotted(results: Results) -> Names:
    return {f"{source}.{name}": value for source, result in results.items() for name, value in result.items()}
