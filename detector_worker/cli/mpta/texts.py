"""The files that commands write for people and editors."""

import json
from collections.abc import Mapping
from typing import Any

from detector_worker.models.pipeline_json.schema import pipeline_schema

__all__ = ["README", "pipeline_text", "schema_text"]

README = """\
# An archive in the making

`pipeline.json` says what is done with what the models see; an editor that knows JSON Schema helps to write it, by
`pipeline.schema.json`. Both files, this one and the models are all that belongs into this folder.

1. Put the detector here and name it as `modelFile`: an `.onnx` file with all weights inside, or an OpenVINO `.xml` with
   its `.bin`. A `.pt` becomes an `.onnx` with `detector-worker mpta convert`.
2. `classes` are the names of the model's class ids in their order, null for one that is not used; leave the key out
   where the model knows its names. `expectedClasses` are those that make a visit.
3. Each entry of `branches` asks a further model about a stable visit: `modelType` `classification` or `ocr` (which
   needs an `alphabet`), `crop` and `cropClass` for what it sees. Its label is `{modelId.resultField}` in templates.
4. `actions` are carried out when a visit is stable, `parallelActions` after the branches. `fields` are columns of the
   table, which `tables` declares.
5. Pictures of what the cameras see, in a folder `samples`, let the worker find out by itself which precision the
   detector bears.

Then: `detector-worker mpta validate .` says what is wrong, `detector-worker mpta pack .` makes the archive, and
`detector-worker mpta inspect ARCHIVE --svg FILE` draws it.
"""


def schema_text() -> str:
    """Return the published JSON Schema as a file's content."""
    return pipeline_text(pipeline_schema())


def pipeline_text(document: Mapping[str, Any]) -> str:
    """Return a JSON document as a file's content."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
