"""What is found in one round, and what is never told: faults that only follow from a part that could not be read."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import tiny_classifier, tiny_detector, tiny_pipeline

from detector_worker.core.exceptions import PipelineError
from detector_worker.models.pipeline_config import PipelineFile
from detector_worker.models.pipeline_json.checks import checked_pipeline, pipeline_faults
from detector_worker.models.pipeline_json.doubts import pipeline_warnings
from detector_worker.models.pipeline_json.parser import examine_pipeline, faults_of

IMAGE = {"type": "redis_save_image", "key": "{record_id}"}
TELL = {"type": "publish_message", "channel": "c", "message": "{redis_save_image.key}"}
CREATE = {"type": "postgresql_create_record", "table": "cars", "fields": {"id": "{record_id}"}}
UPDATE = {
    "type": "postgresql_update",
    "table": "cars",
    "key_field": "id",
    "key_value": "{record_id}",
    "fields": {"a": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    (folder / "tiny_detector.onnx").write_bytes(tiny_detector())
    (folder / "tiny_classifier.onnx").write_bytes(tiny_classifier())
    return folder


def faults(document: Any, folder: Path) -> list[str]:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    try:
        checked_pipeline(examine_pipeline(content), folder, where="archive a.mpta")
    except PipelineError as exc:
        return faults_of(exc)
    return []


def branch(*left_out: str, **keys: Any) -> dict[str, Any]:
    whole = {**tiny_pipeline()["pipeline"]["branches"][0], **keys}
    return {key: value for key, value in whole.items() if key not in left_out}


def tone(**keys: Any) -> dict[str, Any]:
    return {**tiny_pipeline()["pipeline"]["branches"][1], **keys}


def warnings(**overrides: Any) -> list[str]:
    plain: dict[str, Any] = {"branches": [], "parallelActions": [], "tables": {}}
    return list(pipeline_warnings(PipelineFile.model_validate(tiny_pipeline(**(plain | overrides))).pipeline))


def test_slips_of_every_kind_come_in_one_round(folder: Path) -> None:
    document = tiny_pipeline(
        minConfidense=0.5,
        modelFile="absent.onnx",
        expectedClasses=["red"],
        classes=["red", "green", "blue"],
        triggerClasses=["yellow"],
        stability={"minFrames": "four"},
        actions=[CREATE, {**IMAGE, "key": "{record_ib}", "qualty": 90}, {"type": "webhok"}],
        branches=[branch(cropp=True), tone(modelId="tiny_hue_v1")],
        tables={"": {"a": "text"}},
    )

    told = faults(document, folder)

    for expected in (
        "pipeline.minConfidense is not known; did you mean 'minConfidence'?",
        "pipeline.modelFile: the archive holds no file 'absent.onnx'",
        "pipeline.triggerClasses: the detector knows no class 'yellow'",
        "pipeline.stability.minFrames: a text of 4 characters stands there",
        "pipeline.actions[1].qualty is not known; did you mean 'quality'?",
        "pipeline.actions[1].key: {record_ib} can never have a value here; did you mean 'record_id'?",
        "pipeline.actions[2].type: 'webhok' stands there",
        "pipeline.branches[0].cropp is not known; did you mean 'crop'?",
        "the id 'tiny_hue_v1' is used 2 times",
        "pipeline.parallelActions[0].waitForBranches: there is no branch 'tiny_tone_v1'",
        "pipeline.tables.: '' is no name",
    ):
        assert any(fault.startswith(expected) for fault in told), (expected, told)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"branches": [branch("modelId", modelIdd="tiny_hue_v1"), tone()]}, ["modelIdd", "modelId is missing"]),
        ({"branches": [branch("modelId"), tone()]}, ["modelId is missing"]),
        ({"branches": [branch(modelId=7), tone()]}, ["branches[0].modelId"]),
        ({"branches": [branch("resultField", resultFeild="hue"), tone()]}, ["resultFeild"]),
        ({"branches": [branch("resultField", called="hue"), tone()]}, ["branches[0].called"]),
        ({"branches": [branch(resultField=7), tone()]}, ["branches[0].resultField"]),
        ({"branches": [branch("modelFile", modelFil="tiny_classifier.onnx"), tone()]}, ["modelFil is", "modelFile is"]),
        ({"branches": [branch("resultField", modelType="text"), tone()]}, ["modelType"]),
        ({"branches": [3, tone()]}, ["branches[0]: 3"]),
        ({"branches": {"a": branch()}}, ["pipeline.branches: an object"]),
        ({"branches": [branch(timeout_seconds=-1), tone(voting=[])]}, ["timeout_seconds", "voting"]),
        ({"branches": [], "branchs": [branch(), tone()]}, ["branchs"]),
        ({"branches": [], "classifiers": [branch(), tone()]}, ["classifiers"]),
        ({"actions": [{**IMAGE, "id": 7}, TELL]}, ["actions[0].id"]),
        ({"actions": [{**IMAGE, "idd": "best"}, {**TELL, "message": "{best.key}"}]}, ["idd"]),
        ({"actions": [{**IMAGE, "called": "best"}, {**TELL, "message": "{best.key}"}]}, ["called"]),
        ({"actions": [{**IMAGE, "type": "save_picture"}, TELL]}, ["actions[0].type"]),
        ({"actions": [{"key": "k"}, TELL]}, ["actions[0].type"]),
        ({"actions": ["x", TELL]}, ["actions[0]"]),
        ({"actions": [{"type": "redis_save_image", "kee": "{record_id}"}, TELL]}, ["kee", "key is missing"]),
        ({"actions": [{**CREATE, "fields": 3}]}, ["actions[0].fields"]),
        ({"actions": [{**IMAGE, "when": {"equals": 3}}]}, ["when.field is missing"]),
        ({"session": {"table": "cars"}}, ["session.keyField is missing"]),
        ({"classes": ["red", 7], "expectedClasses": ["crimson"]}, ["classes[1]"]),
        ({"modelType": "classification", "modelFile": 5}, ["modelFile", "modelType"]),
    ],
)
def test_what_only_follows_from_another_fault_is_not_told(fault: dict[str, Any], told: list[str], folder: Path) -> None:
    found = faults(tiny_pipeline(**fault), folder)

    assert len(found) == len(told), found
    assert all(any(word in one for one in found) for word in told), found


def test_faults_within_a_part_under_a_misspelt_key_are_told_too(folder: Path) -> None:
    document = tiny_pipeline(branchs=[branch(crop=7), tone(modelFile="absent.onnx")])
    del document["pipeline"]["branches"]

    told = faults(document, folder)

    assert [fault.split(":")[0].split(" ")[0] for fault in told] == [
        "pipeline.branchs",
        "pipeline.branches[0].crop",
        "pipeline.branches[1].modelFile",
    ]


def test_the_file_that_is_checked_is_left_as_it_is(folder: Path) -> None:
    document = json.dumps(tiny_pipeline(minConfidense=3))

    first = faults(document.encode(), folder)

    assert first == faults(document.encode(), folder)


def test_a_key_that_stands_twice_is_a_fault_with_its_path(folder: Path) -> None:
    text = json.dumps(tiny_pipeline()).replace('"crop": true', '"crop": true, "crop": false')

    assert faults(text.encode(), folder) == [f"pipeline.branches[{n}].crop stands there twice" for n in (0, 1)]


def test_in_an_old_file_a_key_that_stands_twice_only_warns() -> None:
    document = tiny_pipeline()
    del document["schemaVersion"]
    text = json.dumps(document).replace('"minConfidence": 0.5', '"minConfidence": 0.1, "minConfidence": 0.5', 1)

    examined = examine_pipeline(text.encode())

    assert examined.faults == ()
    assert examined.warnings == ("pipeline.minConfidence stands there twice: the last one is taken",)


def test_in_an_old_file_an_unknown_key_hides_no_fault(folder: Path) -> None:
    document = tiny_pipeline(old_key=1, minConfidence=3, modelFile="absent.onnx")
    del document["schemaVersion"]

    told = faults(document, folder)

    assert [fault.split(":")[0] for fault in told] == ["pipeline.minConfidence", "pipeline.modelFile"]


@pytest.mark.parametrize("name", ["", "x" * 64, "ä" * 32, "a\0b"])
def test_names_that_postgresql_cannot_have_are_found_wherever_they_stand(name: str, folder: Path) -> None:
    document = tiny_pipeline(
        actions=[{**CREATE, "table": name, "fields": {name: 1}}],
        parallelActions=[{**UPDATE, "table": name, "key_field": name, "fields": {name: 1}}],
        tables={"cars": {name: "text"}},
        session={"table": name, "keyField": name},
    )

    told = [fault for fault in faults(document, folder) if "is no name" in fault]

    assert len(told) == 8


def test_a_text_that_looks_like_a_stand_in_hides_nothing(folder: Path) -> None:
    document = tiny_pipeline(branches=[branch(modelId="\ue000"), tone()])

    assert any("{tiny_hue_v1.hue} can never have a value" in fault for fault in faults(document, folder))


def test_very_many_faults_are_told_in_bounds(folder: Path) -> None:
    document = tiny_pipeline(**{f"minConfidenc{number}": 1 for number in range(5_000)})

    assert len(faults(document, folder)) == 51


def test_no_name_out_of_a_file_writes_to_the_terminal_by_itself(folder: Path) -> None:
    evil = "\x1b[31m\n\u202e" + "x" * 300
    table = {"type": "postgresql_update", "table": evil, "key_field": evil, "key_value": evil, "fields": {evil: evil}}
    document = tiny_pipeline(
        classes=[evil[:199], "green", "blue"],
        triggerClasses=["zzz"],
        modelFile=f"a.{evil}",
        actions=[{**IMAGE, "key": evil, "region": evil[:190]}, table, {evil: evil}],
        branches=[branch(modelId=evil[:150], output=evil), branch(modelId=evil[:150], output=evil)],
        tables={evil: {evil: evil}, "cars": {}},
        **{evil: evil},
    )
    config = PipelineFile.model_validate(tiny_pipeline(actions=[CREATE, table | {"fields": {evil: 1}}])).pipeline

    for told in (*faults(document, folder), *pipeline_faults(config, folder), *pipeline_warnings(config)):
        assert told.isprintable()
        assert len(told) < 1500


def test_a_right_pipeline_has_no_faults_and_no_warnings(folder: Path) -> None:
    config = PipelineFile.model_validate(tiny_pipeline()).pipeline

    assert list(pipeline_faults(config, folder)) == []
    assert list(pipeline_warnings(config)) == []


@pytest.mark.parametrize("key", ["gate:{camera_id}", "{session_id}", "{track_id}", "car"])
def test_a_key_that_many_visits_share_is_warned_of(key: str) -> None:
    assert "is the same for many visits" in warnings(actions=[{**IMAGE, "key": key}])[0]


@pytest.mark.parametrize("key", ["{record_id}", "x:{filename}", "{timestamp}", "{postgresql_create_record.key}"])
def test_a_key_of_one_visit_is_not_warned_of(key: str) -> None:
    assert warnings(actions=[CREATE, {**IMAGE, "key": key}]) == []


def test_two_pictures_under_one_key_are_warned_of() -> None:
    [warning] = warnings(actions=[IMAGE, {**IMAGE, "id": "second"}])

    assert warning == "pipeline.actions[1].key is that of pipeline.actions[0]: the second picture replaces the first"


@pytest.mark.parametrize(
    ("update", "is_told"),
    [
        (UPDATE, False),
        ({**UPDATE, "key_value": "{postgresql_create_record.record_id}"}, False),
        ({**UPDATE, "key_value": "{session_id}"}, True),
        ({**UPDATE, "key_field": "session_id"}, True),
        ({**UPDATE, "table": "others"}, True),
    ],
)
def test_an_update_of_a_row_that_no_create_makes_is_warned_of(update: dict[str, Any], is_told: bool) -> None:
    assert any(".key_value: no create" in one for one in warnings(actions=[CREATE, update])) == is_told


def test_an_update_before_its_create_is_warned_of() -> None:
    assert "actions[0].key_value" in warnings(actions=[UPDATE, CREATE])[0]


def test_what_is_not_declared_though_others_are_is_warned_of() -> None:
    told = warnings(actions=[CREATE, UPDATE], tables={"cras": {}})
    assert [one.split(":")[0] for one in told] == ["pipeline.actions[0].table", "pipeline.actions[1].table"]
    assert "did you mean 'cras'?" in told[0]

    told = warnings(actions=[CREATE, UPDATE], tables={"cars": {"id": "uuid"}})
    assert [one.split(":")[0] for one in told] == ["pipeline.actions[1].fields"]


def test_a_branch_that_repeats_another_is_warned_of() -> None:
    [warning] = warnings(branches=[branch(), branch(modelId="again")])

    assert warning.startswith("pipeline.branches[1] asks the same model for the same output")
    assert warnings(branches=[branch(), tone()]) == []


def test_names_that_only_case_tells_apart_are_warned_of() -> None:
    [warning] = warnings(classes=["Car", "car", None])

    assert warning == "pipeline.classes: Car and car are the same but for case"
    assert warnings(classes=["car", "van", "car"]) == []


def test_an_alphabet_that_nothing_reads_is_warned_of() -> None:
    told = warnings(alphabet=["A", "_"], branches=[branch(alphabet=["A"]), tone(modelType="ocr", alphabet=["A"])])

    assert [one.split(" ")[0] for one in told] == ["pipeline.alphabet", "pipeline.branches[0].alphabet"]


def test_crop_settings_without_a_crop_are_warned_of() -> None:
    told = warnings(branches=[branch(crop=False, cropClass="red", cropPadding=0.1)])

    assert [one.split(" ")[0] for one in told] == ["pipeline.branches[0].cropClass", "pipeline.branches[0].cropPadding"]
