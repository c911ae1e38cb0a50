"""The published schema: one with the code, accepted by an independent judge, strict where the worker is."""

import json
import zipfile
from copy import deepcopy
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from support.tiny_models import tiny_pipeline

from detector_worker.models.pipeline_json.parser import examine_pipeline
from detector_worker.models.pipeline_json.schema import did_you_mean, pipeline_schema

ROOT = Path(__file__).parents[4]
PUBLISHED = json.loads((ROOT / "docs" / "pipeline.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(PUBLISHED)


def test_the_published_schema_is_the_code_s() -> None:
    """Else write it anew: detector-worker mpta schema > docs/pipeline.schema.json."""
    assert pipeline_schema() == PUBLISHED


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(PUBLISHED)
    assert PUBLISHED["$id"]
    assert PUBLISHED["title"] == "pipeline.json"


def demo_and_real() -> list[dict[str, Any]]:
    with as_file(files("detector_worker.simulator") / "demo.mpta") as demo:
        paths = [demo, *(ROOT / "build").glob("real-*.mpta")]
        return [json.loads(zipfile.ZipFile(path).read("pipeline.json")) for path in paths]


def test_it_accepts_the_demo_and_the_real_pipelines() -> None:
    for document in [tiny_pipeline(), *demo_and_real()]:
        VALIDATOR.validate(document)


@pytest.mark.parametrize(
    "keys",
    [
        {"minConfidense": 1},
        {"stability": {"minFrame": 3}},
        {"minConfidence": 3},
        {"targetFps": "five"},
        {"actions": [{"type": "redis_save_image", "kee": "k"}]},
        {"actions": [{"type": "webhok"}]},
        {"branches": [{"modelId": "a"}]},
        {"outputLayout": "yolov99"},
    ],
)
def test_it_rejects_what_the_worker_rejects(keys: dict[str, Any]) -> None:
    document = tiny_pipeline(**keys)

    assert not VALIDATOR.is_valid(document)
    assert examine_pipeline(json.dumps(document).encode()).faults


@pytest.mark.parametrize("key", ["timeout_seconds", "timeoutSeconds"])
def test_every_way_to_write_a_key_is_accepted_by_both(key: str) -> None:
    document = deepcopy(tiny_pipeline())
    document["pipeline"]["branches"][0][key] = 5

    VALIDATOR.validate(document)
    assert examine_pipeline(json.dumps(document).encode()).faults == ()


def test_the_key_by_which_editors_find_it_is_allowed() -> None:
    document = {"$schema": "./pipeline.schema.json", **tiny_pipeline()}

    VALIDATOR.validate(document)
    assert examine_pipeline(json.dumps(document).encode()).faults == ()


def test_editors_are_told_what_a_key_means() -> None:
    described = PUBLISHED["$defs"]["BranchConfig"]["properties"]["cropPadding"]

    assert described["description"].startswith("Margin around the cut-out")
    assert "title" not in described


def test_the_nearest_word_is_found_in_spite_of_case_and_underscores() -> None:
    assert did_you_mean("crop_class", ["cropClass", "crop"]) == "; did you mean 'cropClass'?"
    assert did_you_mean("qqq", ["cropClass"]) == ""
