import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_models import tiny_pipeline

from detector_worker.core.exceptions import PipelineError
from detector_worker.models.pipeline_config import PipelineConfig
from detector_worker.models.pipeline_json.document import read_content
from detector_worker.models.pipeline_json.parser import examine_pipeline, refuse


def parse(document: Any) -> tuple[PipelineConfig, tuple[str, ...]]:
    return parse_text(json.dumps(document).encode())


def parse_text(content: bytes) -> tuple[PipelineConfig, tuple[str, ...]]:
    examined = examine_pipeline(content)
    refuse(examined.faults, "archive a.mpta")
    assert examined.config is not None
    return examined.config, examined.warnings


def refusal(document: Any) -> str:
    with pytest.raises(PipelineError) as caught:
        parse(document)
    return caught.value.what


def test_a_right_file_gives_its_pipeline_without_warnings() -> None:
    config, warnings = parse(tiny_pipeline())

    assert config.model_id == "tiny_squares_v1"
    assert warnings == ()


def test_all_faults_are_told_at_once_with_their_paths() -> None:
    document = tiny_pipeline(minConfidence=3, stability={"minFrames": "four", "minIou": None}, targetFps=-1)

    what = refusal(document)

    assert "pipeline.minConfidence: 3 stands there, allowed is less than or equal to 1" in what
    assert "pipeline.stability.minFrames: a text of 4 characters stands there" in what
    assert "pipeline.stability.minIou: null stands there" in what
    assert "pipeline.targetFps: -1 stands there" in what


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"minConfidense": 0.5}, "pipeline.minConfidense is not known; did you mean 'minConfidence'?"),
        ({"min_confidence_": 0.5}, "did you mean 'minConfidence'?"),
        ({"stability": {"minFrame": 1}}, "pipeline.stability.minFrame is not known; did you mean 'minFrames'?"),
        (
            {"actions": [{"type": "postgresql_create_record", "table": "cars", "fields": {}}]},
            "pipeline.actions[0].fields",
        ),
        (
            {"actions": [{"type": "redis_save_image", "key": "k", "qualty": 3}]},
            "pipeline.actions[0].qualty is not known; did you mean 'quality'?",
        ),
        (
            {
                "parallelActions": [
                    {
                        "type": "postgresql_update",
                        "table": "t",
                        "key_field": "a",
                        "key_value": "b",
                        "fields": {},
                        "waitForBranch": [],
                    }
                ]
            },
            "pipeline.parallelActions[0].waitForBranch is not known; did you mean 'waitForBranches'?",
        ),
        (
            {"actions": [{"type": "redis_save_imge", "key": "k"}]},
            "'redis_save_imge' stands there, which is no kind of action; did you mean 'redis_save_image'?",
        ),
        ({"actions": [{"key": "k"}]}, "pipeline.actions[0].type: null stands there"),
        (
            {"modelType": "detecton"},
            "'detecton' stands there, allowed is 'detection', 'classification' or 'ocr'; did you mean 'detection'?",
        ),
        ({"branches": [{"modelId": "b"}]}, "pipeline.branches[0].modelFile is missing"),
        ({"branches": {}}, "pipeline.branches: an object stands there"),
    ],
)
def test_a_fault_is_told_with_its_path_and_the_nearest_word(overrides: dict[str, Any], expected: str) -> None:
    assert expected in refusal(tiny_pipeline(**overrides))


@pytest.mark.parametrize("char", ["\x1b", "\n", "\x9b", "\u202e", "\u200b", "\u2028", "\u2029"])
def test_names_with_control_characters_are_refused_wherever_they_stand(char: str) -> None:
    name = f"car{char}"
    branch = {"modelId": name, "modelFile": "b.onnx", "modelType": "classification", "cropClass": name}
    image = {"type": "redis_save_image", "id": name, "key": "k"}
    document = tiny_pipeline(
        modelId=name, classes=[None, name], expectedClasses=[name], branches=[branch], actions=[image]
    )

    what = refusal(document)

    places = ("modelId", "classes[1]", "expectedClasses[0]", "branches[0].modelId", "branches[0].cropClass")
    for place in (*places, "actions[0].id"):
        told = f"pipeline.{place}: a text of 4 characters stands there, allowed is a name without control characters"
        assert told in what
    assert char == "\n" or char not in what


def test_names_of_any_language_are_taken() -> None:
    config, _ = parse(
        tiny_pipeline(classes=["Größe", "自動車", "سيارة", "car 🚗"], triggerClasses=[], expectedClasses=[])
    )

    assert config.classes == ("Größe", "自動車", "سيارة", "car 🚗")


def test_values_that_could_be_secret_are_never_quoted() -> None:
    canary = "canary-Password1"
    document = tiny_pipeline(minConfidence=canary, targetFps=[canary], tracking=canary, modelId={"x": canary})

    assert canary not in refusal(document)


def test_without_a_version_unknown_keys_only_warn() -> None:
    document = tiny_pipeline(crop_class="x", actions=[{"type": "redis_save_image", "key": "k", "bucket": "b"}])
    del document["schemaVersion"]

    config, warnings = parse(document)

    assert config.actions[0].result_name == "redis_save_image"
    assert any(warning.startswith("pipeline.actions[0].bucket is not known") for warning in warnings)
    assert len(warnings) == 2


def test_without_a_version_wrong_values_are_still_errors() -> None:
    document = tiny_pipeline(old_key=1, minConfidence=3)
    del document["schemaVersion"]

    assert "minConfidence" in refusal(document)


def test_a_version_of_the_future_is_refused() -> None:
    assert "schemaVersion" in refusal({**tiny_pipeline(), "schemaVersion": 2})


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"a":' * 200 + b"1" + b"}" * 200]
)
def test_what_is_no_json_or_too_deep_is_one_clear_error(content: bytes) -> None:
    with pytest.raises(PipelineError, match=r"no JSON|nested"):
        parse_text(content)


@pytest.mark.parametrize("document", [None, [], 1, "x", {}, {"pipeline": None}, {"pipeline": []}])
def test_json_that_is_no_pipeline_is_refused(document: Any) -> None:
    assert refusal(document)


def test_a_byte_order_mark_is_no_fault() -> None:
    content = b"\xef\xbb\xbf" + json.dumps(tiny_pipeline()).encode()

    assert parse_text(content)[0].model_id == "tiny_squares_v1"


def test_a_thousand_faults_are_told_in_bounds() -> None:
    what = refusal(tiny_pipeline(**{f"unknown{number}": 1 for number in range(1000)}))

    assert what.endswith("and more")
    assert len(what) < 10_000


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(sorted(tiny_pipeline()["pipeline"])), value=JSON, versioned=st.booleans())
def test_any_value_anywhere_is_read_or_refused_as_ours(key: str, value: Any, versioned: bool) -> None:
    document = tiny_pipeline(**{key: value})
    if not versioned:
        del document["schemaVersion"]
    with contextlib.suppress(PipelineError):
        parse(document)


def test_of_a_huge_file_only_the_beginning_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.json"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)

    with pytest.raises(PipelineError, match="larger than 4 MiB"):
        parse_text(read_content(file))
