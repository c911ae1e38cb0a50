from collections.abc import Mapping
from typing import Any

import pytest

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.model_reading import read_model
from detector_worker.models.output_shapes import place_count
from detector_worker.models.pipeline_config import ModelSettings
from detector_worker.models.pipeline_values import NmsConfig
from detector_worker.models.runtimes.runtime import ModelSpec, Preprocessing


def settings(model_type: str = "detection", **rest: Any) -> ModelSettings:
    return ModelSettings.model_validate({"modelId": "m", "modelFile": "m.onnx", "modelType": model_type, **rest})


def spec(
    outputs: Mapping[str, tuple[int, ...]],
    *,
    input_hw: tuple[int, int] = (640, 640),
    takes_bytes: bool = False,
    noted: Mapping[str, str] | None = None,
    **metadata: str,
) -> ModelSpec:
    return ModelSpec(input_hw, False, takes_bytes, outputs, {**(noted or {}), **metadata})


def test_the_places_of_three_strides_are_counted() -> None:
    assert place_count((640, 640)) == 8400
    assert place_count((416, 416)) == 3549
    assert place_count((384, 640)) == 5040


EIGHTY = repr({class_id: f"name {class_id}" for class_id in range(80)})
DETR_NOTE = "Ultralytics RT-DETR-l model trained on coco.yaml"


@pytest.mark.parametrize(
    ("shape", "input_hw", "noted", "layout", "classes"),
    [
        ((1, 84, 8400), (640, 640), {}, "yolov8", 80),
        ((-1, 84, 8400), (640, 640), {}, "yolov8", 80),
        ((1, 5, 5040), (384, 640), {}, "yolov8", 1),
        ((1, 84, 21), (32, 32), {}, "yolov8", 80),
        ((1, 7, 3840), (384, 640), {}, "yolov8", 3),
        ((1, 84, -1), (640, 640), {}, "yolov8", 80),
        ((1, 84, 84), (64, 64), {"names": EIGHTY}, "yolov8", 80),
        ((1, 116, 8400), (640, 640), {"names": EIGHTY, "task": "segment"}, "yolov8", 80),
        ((1, 56, 8400), (640, 640), {"names": "{0: 'person'}", "task": "pose"}, "yolov8", 1),
        ((1, 25200, 85), (640, 640), {}, "yolov5", 80),
        ((1, 25200, 6), (640, 640), {}, "yolov5", 1),
        ((1, 252, 6), (64, 64), {}, "yolov5", 1),
        ((1, 25500, 85), (640, 640), {"names": EIGHTY.replace("{", "{ ")}, "yolov5", 80),
        ((1, 3549, 85), (416, 416), {}, "yolox", 80),
        ((1, 21, 85), (32, 32), {}, "yolox", 80),
        ((1, 8400, 6), (640, 640), {}, "yolox", 1),
        ((1, 84, 6), (64, 64), {}, "yolox", 1),
        ((1, 84, 85), (64, 64), {"names": EIGHTY}, "yolox", 80),
        ((1, 300, 6), (640, 640), {}, "end2end", 100),
        ((-1, 300, 6), (640, 640), {"names": EIGHTY}, "end2end", 80),
        ((1, -1, 6), (640, 640), {}, "end2end", 100),
        ((1, 300, 6), (640, 640), {"names": "{0: 'a', 1: 'b'}", "end2end": "True"}, "end2end", 2),
        ((1, 300, 38), (640, 640), {"names": EIGHTY, "end2end": "True", "task": "segment"}, "end2end", 80),
        ((1, 84, 6), (64, 64), {"names": EIGHTY, "end2end": "True"}, "end2end", 80),
        ((1, 300, 84), (640, 640), {}, "detr", 80),
        ((1, 300, 369), (640, 640), {}, "detr", 365),
        ((1, 300, 6), (640, 640), {"names": "['a', 'b']", "description": DETR_NOTE}, "detr", 2),
        ((1, 100, 84), (640, 640), {"names": EIGHTY, "description": DETR_NOTE}, "detr", 80),
        ((1, 300, 6), (640, 640), {"names": EIGHTY, "description": DETR_NOTE}, "detr", 80),
        ((1, 1, 200, 7), (384, 384), {}, "ssd", 100),
        ((-1, 1, -1, 7), (384, 384), {"names": "{'0': 'a', '1': 'b'}"}, "ssd", 2),
        ((1, 85, 22, 22), (352, 352), {}, "fastestdet", 80),
        ((1, 6, 12, 20), (384, 640), {}, "fastestdet", 1),
    ],
)
def test_a_detector_is_recognised_by_its_shape_and_what_it_notes(
    shape: tuple[int, ...], input_hw: tuple[int, int], noted: dict[str, str], layout: str, classes: int
) -> None:
    reading = read_model(settings(), spec({"out": shape}, input_hw=input_hw, noted=noted))

    assert (reading.layout, reading.outputs) == (layout, ("out",))
    assert len(reading.class_names) == classes


@pytest.mark.parametrize(
    ("outputs", "layout", "ordered", "classes"),
    [
        ({"pred_logits": (1, 300, 80), "pred_boxes": (1, 300, 4)}, "detr", ("pred_boxes", "pred_logits"), 80),
        ({"Logits": (1, 300, 6), "BOXES": (1, 300, 4)}, "detr", ("BOXES", "Logits"), 6),
        ({"dets": (-1, 300, 4), "labels": (-1, 300, 91)}, "detr", ("dets", "labels"), 91),
        ({"dets": (1, 300, 4), "labels": (1, 300, 4)}, "detr", ("dets", "labels"), 4),
        (
            {"dets": (1, 100, 4), "labels": (1, 100, 91), "masks": (1, 100, 78, 78)},
            "detr",
            ("dets", "labels"),
            91,
        ),
        ({"scores": (1, 8732, 21), "boxes": (1, 8732, 4)}, "ssd", ("boxes", "scores"), 21),
        ({"Boxes": (1, 300, 4), "Scores": (1, 300, 6)}, "ssd", ("Boxes", "Scores"), 6),
        ({"output0": (1, 116, 8400), "output1": (1, 32, 160, 160)}, "yolov8", ("output0",), 112),
        ({"output0": (1, 25200, 85), "a": (1, 3, 80, 80, 85), "b": (1, 3, 40, 40, 85)}, "yolov5", ("output0",), 80),
    ],
)
def test_of_several_outputs_those_that_belong_to_the_layout_are_taken_in_its_order(
    outputs: dict[str, tuple[int, ...]], layout: str, ordered: tuple[str, ...], classes: int
) -> None:
    reading = read_model(settings(), spec(outputs))

    assert (reading.layout, reading.outputs, len(reading.class_names)) == (layout, ordered, classes)


def test_masks_beside_the_boxes_are_no_classes_where_the_names_tell_it() -> None:
    outputs = {"output0": (1, 25200, 117), "proto": (1, 32, 160, 160)}

    assert len(read_model(settings(), spec(outputs, names=EIGHTY)).class_names) == 80


@pytest.mark.parametrize(
    ("outputs", "input_hw", "message"),
    [
        ({"out": (1, 84, 84)}, (64, 64), "yolov8 with 80 classes, or yolox with 79 classes"),
        ({"a": (1, 300, 4), "b": (1, 300, 80)}, (640, 640), "ssd with 80 classes, or detr with 80 classes"),
        ({"out": (1, 300, 84)}, (64, 64), "yolov8 with 296 classes, or detr with 80 classes"),
    ],
)
def test_what_can_be_read_in_several_ways_is_an_error_that_names_the_cure(
    outputs: dict[str, tuple[int, ...]], input_hw: tuple[int, int], message: str
) -> None:
    with pytest.raises(ModelLoadError, match=rf"in several ways: {message} \[model m\]\. Set outputLayout"):
        read_model(settings(), spec(outputs, input_hw=input_hw))


def test_what_is_ambiguous_is_read_as_the_archive_says() -> None:
    square, pair = spec({"out": (1, 84, 84)}, input_hw=(64, 64)), spec({"a": (1, 300, 4), "b": (1, 300, 80)})

    assert len(read_model(settings(outputLayout="yolox"), square).class_names) == 79
    assert len(read_model(settings(outputLayout="yolov8"), square).class_names) == 80
    assert read_model(settings(outputLayout="detr"), pair).outputs == ("a", "b")
    assert read_model(settings(outputLayout="ssd"), pair).outputs == ("a", "b")
    fours = spec({"a": (1, 300, 4), "Boxes": (1, 300, 4)})
    assert read_model(settings(outputLayout="detr"), fours).outputs == ("Boxes", "a")
    # YOLOv6 answers in YOLOX's shape, decoded already.
    assert read_model(settings(outputLayout="yolov5"), spec({"out": (1, 8400, 85)})).layout == "yolov5"


def test_names_that_contradict_the_shape_are_an_error_unless_the_layout_is_named() -> None:
    turned = spec({"out": (1, 8400, 84)}, names=EIGHTY)  # YOLOv8 with its axes the other way round

    with pytest.raises(ModelLoadError, match="looks like yolox with 79 classes, but notes 80 class names"):
        read_model(settings(), turned)
    assert len(read_model(settings(outputLayout="yolox"), turned).class_names) == 79


def test_a_model_of_rotated_boxes_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="rotated boxes"):
        read_model(settings(), spec({"out": (1, 20, 8400)}, names="{0: 'plane'}", task="obb"))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 20000, 85),
        (1, 20000, 6),
        (2, 84, 8400),
        (1, -1, 85),
        (1, 85, 23, 23),
        (1, 3, 80, 80, 85),
        (-1, -1, -1),
        (1, 1000),
        (1, 4),
    ],
)
def test_an_unknown_detector_is_an_error_that_lists_what_is_known(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelLoadError, match=r"out \[.*yolov5.*yolov8.*yolox.*end2end.*ssd.*detr.*fastestdet.*textCtc"):
        read_model(settings(), spec({"out": shape}))


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("yolov5", (1, 84, 8400)),
        ("yolov8", (1, 8400, 84)),
        ("yolox", (1, 25200, 85)),
        ("end2end", (1, 84, 8400)),
        ("ssd", (1, 300, 7)),
        ("detr", (1, 84, 8400)),
        ("detr", (1, 8400, 84)),
        ("fastestdet", (1, 84, 8400)),
        ("classification", (1, 1000)),
        ("textSlots", (1, 9, 37)),
    ],
)
def test_a_named_layout_that_the_shape_cannot_be_is_an_error(layout: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelLoadError, match=rf"cannot be read as {layout}; its outputs are out \[1, "):
        read_model(settings(outputLayout=layout), spec({"out": shape}))


@pytest.mark.parametrize(
    ("outputs", "layout", "pixels", "letterbox", "does_nms"),
    [
        ({"out": (1, 25200, 85)}, "yolov5", ("rgb", 1 / 255), "center", True),
        ({"out": (1, 84, 8400)}, "yolov8", ("rgb", 1 / 255), "center", True),
        ({"out": (1, 8400, 85)}, "yolox", ("bgr", 1.0), "topLeft", True),
        ({"out": (1, 300, 6)}, "end2end", ("rgb", 1 / 255), "center", False),
        ({"out": (1, 1, 200, 7)}, "ssd", ("bgr", 1.0), "none", False),
        ({"boxes": (1, 900, 4), "scores": (1, 900, 21)}, "ssd", ("bgr", 1.0), "none", True),
        ({"boxes": (1, 300, 4), "logits": (1, 300, 80)}, "detr", ("rgb", 1 / 255), "none", False),
        ({"out": (1, 300, 84)}, "detr", ("rgb", 1 / 255), "none", False),
        ({"out": (1, 85, 20, 20)}, "fastestdet", ("bgr", 1 / 255), "none", True),
    ],
)
def test_each_layout_brings_what_its_models_want(
    outputs: dict[str, tuple[int, ...]], layout: str, pixels: tuple[str, float], letterbox: str, does_nms: bool
) -> None:
    reading = read_model(settings(), spec(outputs))

    assert reading.layout == layout
    assert (reading.preprocessing.color, reading.preprocessing.scale) == pixels
    assert (reading.preprocessing.mean, reading.letterbox, reading.pad_value) == ((0, 0, 0), letterbox, 114)
    assert (reading.nms is not None) is does_nms


def test_rf_detr_gets_pixels_brought_to_imagenets_mean_and_spread() -> None:
    rf_detr = {"dets": (1, 300, 4), "labels": (1, 300, 91)}

    wanted = read_model(settings(), spec(rf_detr)).preprocessing

    assert wanted == Preprocessing("rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    plain = read_model(settings(input={"mean": [0, 0, 0], "std": [1, 1, 1]}), spec(rf_detr)).preprocessing
    assert plain == Preprocessing("rgb", 1 / 255)
    assert read_model(settings(), spec(rf_detr, takes_bytes=True)).preprocessing == Preprocessing("rgb")


def test_doubles_are_suppressed_as_the_archive_says_where_it_says_so() -> None:
    wanted = settings(nms={"iou": 0.3})

    for shape in ((1, 84, 8400), (1, 300, 6), (1, 300, 84), (1, 1, 200, 7)):
        assert read_model(wanted, spec({"out": shape})).nms == NmsConfig(iou=0.3)


def test_a_model_of_open_size_was_trained_at_the_noted_size() -> None:
    outputs = {"out": (1, 84, 8400)}

    assert read_model(settings(), spec(outputs)).long_side_px == 640
    assert read_model(settings(), spec(outputs, imgsz="[736, 1280]")).long_side_px == 1280
    assert read_model(settings(), spec(outputs, imgsz="huge")).long_side_px == 640


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
    assert read_model(settings(), spec(outputs, names="['a', 'b', 'c']")).class_names == ("a", "b", "c")


def test_a_model_that_does_not_tell_how_many_classes_it_has_has_those_that_are_named() -> None:
    ssd, names = {"out": (1, 1, 200, 7)}, "{0: 'a', 1: 'b'}"

    assert read_model(settings(classes=[None, "car"]), spec(ssd)).class_names == (None, "car")
    assert read_model(settings(), spec(ssd, names=names)).class_names == ("a", "b")
    assert read_model(settings(), spec(ssd)).class_names[99] == "class_99"


def test_classes_that_are_all_null_are_an_error() -> None:
    with pytest.raises(ModelLoadError, match="classes are all null"):
        read_model(settings(classes=[None]), spec({"out": (1, 84, 8400)}))


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

    assert (reading.layout, reading.outputs, reading.class_names) == ("textSlots", ("text",), tuple(PLATE_ALPHABET))
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


@pytest.mark.parametrize("shape", [(2, 9, 37), (1, -1, 37), (1, 9, -1), (1, 1, 9, 37), (37,), (1, 1)])
def test_an_unknown_text_output_is_an_error_that_lists_what_is_known(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelLoadError, match=r"cannot be read as ocr.*textSlots \[1, slots, symbols"):
        read_model(settings("ocr", alphabet=PLATE_ALPHABET), spec({"text": shape}))


@pytest.mark.parametrize(
    ("layout", "shape"), [("textIndex", (1, 9, 37)), ("textSlots", (18, 1, 37)), ("classification", (1, 37))]
)
def test_a_text_layout_that_does_not_fit_is_an_error(layout: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelLoadError, match=f"cannot be read as {layout}"):
        read_model(settings("ocr", alphabet=PLATE_ALPHABET, outputLayout=layout), spec({"text": shape}))


def test_of_several_texts_the_branch_names_one() -> None:
    outputs = {"upper": (1, 9, 37), "lower": (1, 5, 37)}

    assert read_model(settings("ocr", alphabet=PLATE_ALPHABET, output="lower"), spec(outputs)).outputs == ("lower",)
    with pytest.raises(ModelLoadError, match="several outputs that fit: upper, lower"):
        read_model(settings("ocr", alphabet=PLATE_ALPHABET), spec(outputs))


@pytest.mark.parametrize("shape", [(1, 88), (-1, 88), (1, 88, 1, 1), (1, 88, 1)])
def test_a_list_of_indices_is_recognised_whatever_the_length_of_the_alphabet(shape: tuple[int, ...]) -> None:
    reading = read_model(settings("ocr", alphabet=PLATE_ALPHABET), spec({"text": shape}))

    assert (reading.layout, reading.outputs, reading.letterbox) == ("textIndex", ("text",), "none")
    assert reading.preprocessing == Preprocessing("bgr")


def test_a_list_of_indices_beside_other_outputs_must_be_named() -> None:
    outputs = {"text": (1, 88), "region": (1, 65)}

    with pytest.raises(ModelLoadError, match="cannot be read as ocr"):
        read_model(settings("ocr", alphabet=PLATE_ALPHABET), spec(outputs))
    named = settings("ocr", alphabet=PLATE_ALPHABET, output="text", outputLayout="textIndex")
    assert read_model(named, spec(outputs)).outputs == ("text",)


@pytest.mark.parametrize("shape", [(1, 18, 37), (-1, 18, 37), (1, -1, 37), (18, 1, 37), (-1, 1, 37)])
@pytest.mark.parametrize("blank_at", [0, 36])
def test_a_text_with_a_blank_is_recognised_by_the_empty_symbol_wherever_it_stands(
    shape: tuple[int, ...], blank_at: int
) -> None:
    alphabet = PLATE_ALPHABET[:-1]
    alphabet.insert(blank_at, "")

    assert read_model(settings("ocr", alphabet=alphabet), spec({"text": shape})).layout == "textCtc"


def test_a_padding_is_a_blank_where_the_layout_is_named() -> None:
    text = spec({"text": (1, 18, 37)})

    assert read_model(settings("ocr", alphabet=PLATE_ALPHABET), text).layout == "textSlots"
    assert read_model(settings("ocr", alphabet=PLATE_ALPHABET, outputLayout="textCtc"), text).layout == "textCtc"


@pytest.mark.parametrize("symbol", ["-", "0"])
def test_a_text_with_a_blank_that_the_alphabet_does_not_have_is_an_error(symbol: str) -> None:
    named = settings("ocr", alphabet=[*PLATE_ALPHABET[:-1], symbol], outputLayout="textCtc")

    with pytest.raises(ModelLoadError, match=r"does not say where it stands.*Put ''"):
        read_model(named, spec({"text": (1, 18, 37)}))
