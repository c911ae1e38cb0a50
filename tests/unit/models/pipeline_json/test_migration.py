import json
from typing import Any

import pytest
from support.tiny_models import tiny_pipeline

from detector_worker.core.exceptions import PipelineError
from detector_worker.models.pipeline_json.migration import migrate_pipeline
from detector_worker.models.pipeline_json.parser import examine_pipeline


def migrated(text: str | None = None, **keys: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    document = tiny_pipeline(**keys)
    del document["schemaVersion"]
    return migrate_pipeline((text or json.dumps(document)).encode(), where="archive a.mpta")


def test_an_old_file_gets_its_version_and_is_right_afterwards() -> None:
    document, changes = migrated()

    assert changes == ("schemaVersion: set to 1",)
    assert next(iter(document)) == "schemaVersion"
    assert examine_pipeline(json.dumps(document).encode()).faults == ()


def test_a_slip_is_renamed_in_its_place() -> None:
    document, changes = migrated(stability={"minFrame": 7, "minSeconds": 1})

    assert document["pipeline"]["stability"] == {"minFrames": 7, "minSeconds": 1}
    assert list(document["pipeline"]["stability"]) == ["minFrames", "minSeconds"]
    assert "pipeline.stability.minFrame: renamed to minFrames" in changes


def test_a_slip_whose_value_does_not_fit_is_dropped_with_a_hint() -> None:
    document, changes = migrated(stability={"minFrame": "seven"})

    assert document["pipeline"]["stability"] == {}
    assert "pipeline.stability.minFrame is not known; did you mean 'minFrames'?: dropped" in changes


def test_a_slip_never_replaces_the_right_key() -> None:
    document, _ = migrated(stability={"minFrames": 3, "minFrame": 7})

    assert document["pipeline"]["stability"] == {"minFrames": 3}


def test_what_nobody_knows_is_dropped() -> None:
    image = {"type": "redis_save_image", "key": "{record_id}", "bucket": "b"}

    document, changes = migrated(actions=[image], zzz=1)

    assert "bucket" not in document["pipeline"]["actions"][0]
    assert "pipeline.zzz is not known: dropped" in changes


def test_connections_go_and_their_passwords_are_not_told() -> None:
    document, changes = migrated(postgresql={"password": "canary"}, redis={"url": "canary"})

    assert {"postgresql", "redis"}.isdisjoint(document["pipeline"])
    assert "canary" not in str(changes)
    assert sum("connections are the worker's own" in change for change in changes) == 2


def test_pickles_are_named_with_the_command_that_converts_them() -> None:
    branch = tiny_pipeline()["pipeline"]["branches"][0] | {"modelFile": "b.pt"}

    document, changes = migrated(modelFile="a.pt", branches=[branch])

    assert document["pipeline"]["modelFile"] == "a.pt"
    assert [change.split(";")[0] for change in changes[1:]] == [
        "pipeline.modelFile: a.pt stays",
        "pipeline.branches[0].modelFile: b.pt stays",
    ]
    assert "mpta convert a.pt" in changes[1]


def test_a_key_that_stood_twice_is_told() -> None:
    document = tiny_pipeline()
    del document["schemaVersion"]
    text = json.dumps(document).replace('"crop": true', '"crop": true, "crop": false', 1)

    assert "pipeline.branches[0].crop stood there twice: the last one is kept" in migrated(text)[1]


def test_the_new_version_stays_what_it_is() -> None:
    document, changes = migrate_pipeline(json.dumps(tiny_pipeline()).encode(), where="")

    assert (document, changes) == (tiny_pipeline(), ())


@pytest.mark.parametrize("text", ["{", "[]", '{"pipeline": 3}', "{}"])
def test_what_is_no_pipeline_is_refused(text: str) -> None:
    with pytest.raises(PipelineError):
        migrated(text)
