from collections.abc import Mapping
from typing import Any

import pytest

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.model_reading import anchor_count, read_model
from detector_worker.models.pipeline_config import ModelSettings
from detector_worker.models.runtimes.runtime import ModelSpec, Preprocessing


def settings(model_type: str = "detection", **rest: Any) -> ModelSettings:
    return ModelSettings.model_validate({"modelId": "m", "modelFile": "m.onnx", "modelType": model_type, **rest})


def spec(
    outputs: Mapping[str, tuple[int, ...]],
    *,
    input_hw: tuple[int, int] = (640, 640),
    takes_bytes: bool = False,
    names: str | None = None,
) -> ModelSpec:
    return ModelSpec(input_hw, False, takes_bytes, outputs, {} if names is None else {"names": names})


def test_the_places_of_three_strides_are_counted() -> None:
    assert anchor_count((640, 640)) == 8400
    assert anchor_count((416, 416)) == 3549
    assert anchor_count((384, 640)) == 5040


@pytest.mark.parametrize(
    ("shape", "input_hw", "layout", "classes"),
    [
        ((1, 84, 8400), (640, 640), "yolov8", 80),
        ((1, 5, 5040), (384, 640), "yolov8", 1),
        ((1, 84, 21), (32, 32), "yolov8", 80),
        ((1, 7, 3840), (384, 640), "yolov8", 3),
        ((1, 3549, 85), (416, 416), "yolox", 80),
        ((1, 21, 85), (32, 32), "yolox", 80),
    ],
)
def test_a_detector_is_recognised_by_its_shape(
    shape: tuple[int, ...], input_hw: tuple[int, int], layout: str, classes: int
) -> None:
    reading = read_model(settings(), spec({"out": shape}, input_hw=input_hw))

    assert reading.layout == layout
    assert len(reading.class_names) == classes


@pytest.mark.parametrize(
    "shape", [(1, 25200, 85), (1, 300, 6), (1, 1, 200, 7), (1, 85, 22, 22), (-1, -1, -1), (1, 1000)]
)
def test_an_unknown_detector_is_an_error_that_lists_what_is_known(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelLoadError, match=r"yolov8.*yolox.*classification"):
        read_model(settings(), spec({"out": shape}))


def test_a_named_layout_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ModelLoadError, match="as yolox"):
        read_model(settings(outputLayout="yolox"), spec({"out": (1, 84, 8400)}))


def test_each_layout_brings_what_its_models_want() -> None:
    yolov8 = read_model(settings(), spec({"out": (1, 84, 8400)}))
    yolox = read_model(settings(), spec({"out": (1, 8400, 85)}))

    assert (yolov8.preprocessing, yolov8.letterbox) == (Preprocessing("rgb", 1 / 255), "center")
    assert (yolox.preprocessing, yolox.letterbox, yolox.pad_value) == (Preprocessing("bgr", 1.0), "topLeft", 114)


def test_the_archives_input_wins_over_the_layouts() -> None:
    wanted = {"color": "bgr", "scale": 2, "mean": [1, 2, 3], "std": [4, 5, 6], "letterbox": "none", "padValue": 0}

    reading = read_model(settings(input=wanted), spec({"out": (1, 84, 8400)}))

    assert reading.preprocessing == Preprocessing("bgr", 2.0, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert (reading.letterbox, reading.pad_value) == ("none", 0)


def test_a_model_that_takes_bytes_is_not_scaled() -> None:
    outputs = {"out": (1, 84, 8400)}

    assert read_model(settings(), spec(outputs, takes_bytes=True)).preprocessing == Preprocessing("rgb")
    with pytest.raises(ModelLoadError, match="bytes"):
        read_model(settings(input={"scale": 0.5}), spec(outputs, takes_bytes=True))


def test_of_several_outputs_the_branch_names_one() -> None:
    outputs = {"color": (1, 7, 1, 1), "type": (1, 4, 1, 1)}

    assert len(read_model(settings("classification", output="type"), spec(outputs)).class_names) == 4
    with pytest.raises(ModelLoadError, match="color, type"):
        read_model(settings("classification"), spec(outputs))
    with pytest.raises(ModelLoadError, match="no output 'kind'"):
        read_model(settings("classification", output="kind"), spec(outputs))


def test_class_names_come_from_the_archive_then_the_model_then_numbers() -> None:
    outputs = {"out": (1, 7, 8400)}
    named = "{0: 'red', 2: 'blue'}"

    assert read_model(settings(classes=["a", None]), spec(outputs, names=named)).class_names == ("a", None, None)
    assert read_model(settings(), spec(outputs, names=named)).class_names == ("red", "class_1", "blue")
    assert read_model(settings(), spec(outputs)).class_names == ("class_0", "class_1", "class_2")


@pytest.mark.parametrize("names", ["__import__('os').abort()", "{0: 1}", "[", "(" * 5000, "{'a': 'b'}", "7"])
def test_hostile_names_in_a_model_are_passed_over(names: str) -> None:
    assert read_model(settings(), spec({"out": (1, 5, 8400)}, names=names)).class_names == ("class_0",)


def test_more_names_than_classes_are_an_error() -> None:
    with pytest.raises(ModelLoadError, match="has 2 classes, the archive names 3"):
        read_model(settings("classification", classes=["a", "b", "c"]), spec({"out": (1, 2)}))


PLATE_ALPHABET = list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_")


@pytest.mark.parametrize("named", [{}, {"outputLayout": "textSlots"}])
def test_a_text_model_is_recognised_by_its_alphabet(named: dict[str, str]) -> None:
    outputs = {"features": (1, 128, 64), "text": (1, 9, 37), "region": (1, 65)}

    reading = read_model(settings("ocr", alphabet=PLATE_ALPHABET, **named), spec(outputs))

    assert (reading.layout, reading.output, reading.class_names) == ("textSlots", "text", tuple(PLATE_ALPHABET))
    assert (reading.preprocessing, reading.letterbox) == (Preprocessing("rgb", 1 / 255), "none")


def test_a_text_model_that_takes_bytes_is_not_scaled() -> None:
    reading = read_model(settings("ocr", alphabet=PLATE_ALPHABET), spec({"text": (1, 9, 37)}, takes_bytes=True))

    assert reading.preprocessing == Preprocessing("rgb")


@pytest.mark.parametrize(
    ("alphabet", "message"),
    [
        (None, r"reads text, but the archive has no alphabet \[model m\]\. Give as alphabet"),
        ([], "has no alphabet"),
        (PLATE_ALPHABET[:-1], r"has 37 symbols, the archive's alphabet 36 \[model m\]\. Give as alphabet"),
        ([*PLATE_ALPHABET, "-"], "has 37 symbols, the archive's alphabet 38"),
    ],
)
def test_an_alphabet_that_is_missing_or_does_not_fit_is_an_error(alphabet: list[str] | None, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        read_model(settings("ocr", alphabet=alphabet), spec({"text": (1, 9, 37)}))


@pytest.mark.parametrize("shape", [(1, 37), (2, 9, 37), (1, -1, 37), (1, 9, -1), (1, 1, 9, 37)])
def test_an_unknown_text_output_is_an_error_that_lists_what_is_known(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelLoadError, match=r"cannot be read as ocr.*textSlots \[1, slots, symbols"):
        read_model(settings("ocr", alphabet=PLATE_ALPHABET), spec({"text": shape}))


@pytest.mark.parametrize("layout", ["textCtc", "textIndex", "classification"])
def test_a_text_layout_that_is_not_read_is_an_error(layout: str) -> None:
    with pytest.raises(ModelLoadError, match=f"cannot be read as {layout}"):
        read_model(settings("ocr", alphabet=PLATE_ALPHABET, outputLayout=layout), spec({"text": (1, 9, 37)}))


def test_of_several_texts_the_branch_names_one() -> None:
    outputs = {"upper": (1, 9, 37), "lower": (1, 5, 37)}

    assert read_model(settings("ocr", alphabet=PLATE_ALPHABET, output="lower"), spec(outputs)).output == "lower"
    with pytest.raises(ModelLoadError, match="several outputs that fit: upper, lower"):
        read_model(settings("ocr", alphabet=PLATE_ALPHABET), spec(outputs))
