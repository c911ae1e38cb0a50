import json
from pathlib import Path
from typing import Any

import pytest
from support.loading import new_loader, new_manager
from support.tiny_models import tiny_classifier, tiny_detector, tiny_pipeline, write_tiny_mpta, zip_bytes

from detector_worker.core.exceptions import DetectorWorkerError, ModelLoadError, PipelineError


def write(path: Path, *, prefix: str = "", drop: str | None = None, **overrides: Any) -> Path:
    """Pack the tiny archive with a fault in it."""
    files = {
        "pipeline.json": json.dumps(tiny_pipeline(**overrides)).encode(),
        "tiny_detector.onnx": tiny_detector(),
        "tiny_classifier.onnx": tiny_classifier(),
    }
    path.write_bytes(zip_bytes({prefix + name: content for name, content in files.items() if name != drop}))
    return path


def branch(**rest: Any) -> dict[str, Any]:
    return {**tiny_pipeline()["pipeline"]["branches"][0], **rest}


def tone(**rest: Any) -> dict[str, Any]:
    return branch(modelId="tiny_tone_v1", resultField="tone", **{"output": "tone", "classes": None, **rest})


async def refusal(tmp_path: Path, **fault: Any) -> DetectorWorkerError:
    manager = new_manager()
    with pytest.raises((PipelineError, ModelLoadError)) as caught:
        await new_loader(tmp_path / "cache", manager=manager).load_pipeline(write(tmp_path / "a.mpta", **fault))
    assert manager.get_cache_stats().in_use == 0
    assert isinstance(caught.value, DetectorWorkerError)
    return caught.value


async def test_an_archive_becomes_a_pipeline_with_its_models(tmp_path: Path) -> None:
    manager = new_manager()

    pipeline = await new_loader(tmp_path / "cache", manager=manager).load_pipeline(write_tiny_mpta(tmp_path / "a.mpta"))

    assert set(pipeline.models) == {"tiny_squares_v1", "tiny_hue_v1", "tiny_tone_v1"}
    assert pipeline.models["tiny_squares_v1"].reading.class_names == ("red", "green", "blue")
    assert pipeline.models["tiny_hue_v1"].reading.outputs == ("hue",)
    assert (tmp_path / "cache" / pipeline.sha256).is_dir()
    assert pipeline.warnings == ()
    assert manager.get_cache_stats().in_use == 2


async def test_closing_lets_the_models_go_once(tmp_path: Path) -> None:
    manager = new_manager()
    loader = new_loader(tmp_path / "cache", manager=manager)
    first, second = [await loader.load_pipeline(write_tiny_mpta(tmp_path / "a.mpta")) for _ in range(2)]

    first.close()
    first.close()

    assert manager.get_cache_stats().in_use == 2
    second.close()
    assert manager.get_cache_stats().in_use == 0


async def test_the_files_may_lie_in_the_only_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mpta", prefix="export/")

    assert (await new_loader(tmp_path / "cache").load_pipeline(path)).config.model_id == "tiny_squares_v1"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
async def test_a_path_and_a_file_address_lead_to_the_archive(tmp_path: Path, form: str) -> None:
    path = write_tiny_mpta(tmp_path / "with space.mpta")

    url = form.format(str(path).replace(" ", "%20") if form != "{}" else path)

    assert (await new_loader(tmp_path / "cache").load_from_url(url)).models


async def test_only_the_allowed_folders_are_read(tmp_path: Path) -> None:
    allowed, elsewhere = tmp_path / "allowed", tmp_path / "elsewhere"
    allowed.mkdir()
    elsewhere.mkdir()
    loader = new_loader(tmp_path / "cache", allowed_paths=(allowed,))
    write_tiny_mpta(allowed / "a.mpta")
    (allowed / "link.mpta").symlink_to(write_tiny_mpta(elsewhere / "a.mpta"))

    assert (await loader.load_from_url(str(allowed / "a.mpta"))).models
    for url in (elsewhere / "a.mpta", allowed / "../elsewhere/a.mpta", allowed / "link.mpta"):
        with pytest.raises(ModelLoadError, match="may not be read"):
            await loader.load_from_url(str(url))


async def test_without_an_allowed_folder_no_path_is_read(tmp_path: Path) -> None:
    path = write_tiny_mpta(tmp_path / "a.mpta")

    with pytest.raises(ModelLoadError, match="may not be read"):
        await new_loader(tmp_path / "cache", allowed_paths=()).load_from_url(str(path))


@pytest.mark.parametrize("url", ["ftp://host/a.mpta", "", "a\x00b", "file:///a%00b", "rtsp://host/a", "file://host/a"])
async def test_what_is_no_address_of_an_archive_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DetectorWorkerError):
        await new_loader(tmp_path / "cache").load_from_url(url)


async def test_an_archive_without_pipeline_json_says_so(tmp_path: Path) -> None:
    error = await refusal(tmp_path, drop="pipeline.json")

    assert isinstance(error, ModelLoadError)
    assert "holds no pipeline.json" in error.what


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"drop": "tiny_classifier.onnx"}, "pipeline.branches[0].modelFile: the archive holds no file"),
        ({"modelFile": "../x.onnx"}, "pipeline.modelFile: the name leads out of the archive"),
        ({"modelFile": "/etc/x.onnx"}, "pipeline.modelFile: the name leads out of the archive"),
        ({"modelFile": "x.pt"}, "a .pt file runs code"),
        ({"modelFile": "pipeline.json"}, "not .json"),
        ({"modelType": "classification"}, "pipeline.modelType"),
        ({"branches": [branch(), branch(resultField="x")]}, "the id 'tiny_hue_v1' is used 2 times"),
        (
            {"actions": [{"type": "redis_save_image", "key": "a"}, {"type": "redis_save_image", "key": "b"}]},
            "the id 'redis_save_image' is used 2 times",
        ),
        ({"branches": []}, "waitForBranches: there is no branch 'tiny_hue_v1'"),
        *(
            ({"branches": [branch(resultField=name), tone()]}, f"pipeline.branches[0].resultField: '{name}' has")
            for name in ("confidence", "error", "type")
        ),
        ({"branches": []}, "pipeline.parallelActions[0].fields.hue: {tiny_hue_v1.hue} can never have a value"),
        ({"expectedClasses": ["reed"]}, "expectedClasses: the detector knows no class 'reed'; did you mean 'red'?"),
        ({"branches": [branch(cropClass="Wheel"), tone()]}, "no class 'Wheel'"),
        (
            {"actions": [{"type": "redis_save_image", "key": "a", "region": "plate"}]},
            "pipeline.actions[0].region: the detector knows no class 'plate'",
        ),
    ],
)
async def test_a_faulty_pipeline_is_refused_by_name(tmp_path: Path, fault: dict[str, Any], expected: str) -> None:
    assert expected in (await refusal(tmp_path, **fault)).what


async def test_all_faults_come_at_once(tmp_path: Path) -> None:
    what = (await refusal(tmp_path, branches=[], modelFile="x.pt")).what

    assert "waitForBranches" in what
    assert ".pt" in what
    assert "tone" in what


async def test_classes_are_compared_without_regard_to_case(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mpta", expectedClasses=["RED"], triggerClasses=["Green"])

    assert (await new_loader(tmp_path / "cache").load_pipeline(path)).models


async def test_a_branch_may_crop_what_another_branch_detects(tmp_path: Path) -> None:
    finds = branch(
        modelId="tiny_parts_v1",
        modelFile="tiny_detector.onnx",
        modelType="detection",
        output=None,
        classes=["wheel", "lamp", "mirror"],
        branches=[branch(crop=True, cropClass="Wheel"), tone()],
    )

    pipeline = await new_loader(tmp_path / "cache").load_pipeline(write(tmp_path / "a.mpta", branches=[finds]))

    assert pipeline.models["tiny_parts_v1"].shared is pipeline.models["tiny_squares_v1"].shared


async def test_a_model_that_cannot_be_read_lets_the_others_go(tmp_path: Path) -> None:
    error = await refusal(tmp_path, branches=[branch(), tone(output="absent")])

    assert isinstance(error, ModelLoadError)
    assert "no output 'absent'" in error.what


async def test_connections_in_an_archive_are_ignored_with_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mpta", postgresql={"host": "evil", "password": "canary"})

    pipeline = await new_loader(tmp_path / "cache").load_pipeline(path)

    assert pipeline.warnings == ("pipeline.postgresql is ignored: connections are the worker's own settings",)


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (["red"], ("pipeline.classes names 1 of 3 classes; null for those that are not used",)),
        (["red", None], ()),
        (["red", "green", "blue"], ()),
        (None, ()),
    ],
)
async def test_classes_that_are_cut_short_are_warned_of(
    tmp_path: Path, classes: list[str | None] | None, told: tuple[str, ...]
) -> None:
    wanted: dict[str, Any] = {
        "classes": classes,
        "triggerClasses": ["red"],
        "expectedClasses": ["red"],
        "requiredClasses": [],
    }
    path = write(tmp_path / "a.mpta", branches=[branch(), tone()], **wanted)

    assert (await new_loader(tmp_path / "cache").load_pipeline(path)).warnings == told


async def test_a_crop_class_without_a_crop_is_warned_of(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mpta", branches=[branch(crop=False, cropClass="red"), tone()])

    pipeline = await new_loader(tmp_path / "cache").load_pipeline(path)

    assert pipeline.warnings == ("pipeline.branches[0].cropClass has no effect without crop: true",)


async def test_all_models_that_are_refused_are_named_with_their_place(tmp_path: Path) -> None:
    pipeline = json.dumps(tiny_pipeline()).encode()
    files = {"pipeline.json": pipeline, "tiny_detector.onnx": b"nothing", "tiny_classifier.onnx": b"nothing either"}
    (tmp_path / "a.mpta").write_bytes(zip_bytes(files))
    manager = new_manager()

    with pytest.raises(ModelLoadError) as caught:
        await new_loader(tmp_path / "cache", manager=manager).load_pipeline(tmp_path / "a.mpta")

    for place in ("pipeline]", "pipeline.branches[0]", "pipeline.branches[1]"):
        assert place in str(caught.value)
    assert manager.get_cache_stats().in_use == 0
