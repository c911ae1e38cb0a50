"""The files that commands write for people and editors."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from detector_worker.models.pipeline_json.schema import pipeline_schema

__all__ = ["pipeline_text", "readme_text", "schema_text"]

_README: Final = """\
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
_GUESSED: Final = """
## Guessed, check before use

The models do not say this of themselves:

{guesses}

Wrong pixels break nothing, they make nonsense: all results are alike, confidences are low, or nothing is found. Then
ask whoever trained the model, and set in its `input`: `color` (`rgb` or `bgr`); `scale` (1 for values 0..255,
0.00392157 for 0..1); `mean` and `std` where it was trained with them; `letterbox` (`center`, `topLeft`, or `none`:
stretched).
"""


def readme_text(guesses: Sequence[str]) -> str:
    """Return what stands beside a first ``pipeline.json``, with what was only guessed in it."""
    listed = "\n".join(f"- {guess}" for guess in guesses)
    return _README + (_GUESSED.format(guesses=listed) if guesses else "")


def schema_text() -> str:
    """Return the published JSON Schema as a file's content."""
    return pipeline_text(pipeline_schema())


def pipeline_text(document: Mapping[str, Any]) -> str:
    """Return a JSON document as a file's content."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
