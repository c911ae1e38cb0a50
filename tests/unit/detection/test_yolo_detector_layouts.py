"""Each layout on its whole way, from a model file through a real runtime to boxes on the frame or a label."""

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from support.assets import assets_dir
from support.loading import model_config, new_manager
from support.tiny_models import answering_model, squares_image, tiny_detector

from detector_worker.core.entities import Detections
from detector_worker.core.frame import Frame
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.model_manager import LoadedModel

NAMES = {"names": "{0: 'car', 1: 'plate'}"}
STREET = Frame(np.zeros((200, 400, 3), np.uint8), camera_id="gate", frame_id=1, time_s=0.0, captured_at=0.0)
"""Letterboxed into the models' 64x64 it lies at y 16 to 48, stretched it fills them."""


async def load(folder: Path, answers: dict[str, Any], metadata: dict[str, str], **settings: Any) -> YOLODetector:
    path = folder / "m.onnx"
    path.write_bytes(answering_model(answers, metadata=metadata))
    model_type = settings.pop("modelType", "detection")
    return await YOLODetector.load_model(new_manager(), model_config(path, model_type, **settings))


def told(found: Detections) -> list[tuple[str, float, list[int]]]:
    return [
        (one.class_name, round(one.confidence, 3), [round(side) for side in found.xyxy[row].tolist()])
        for row, one in enumerate(found.results(0))
    ]


def places(count: int, width: int, row: tuple[float, ...]) -> Any:
    output = np.zeros((1, count, width), np.float32)
    output[0, 3] = row
    return output


CAR = ("car", 0.8, [100, 50, 300, 150])
YOLO_ROW = (32.0, 32.0, 32.0, 16.0)
SHARES = (0.25, 0.25, 0.75, 0.75)
CENTRED_SHARES = (0.5, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("answers", "metadata"),
    [
        ({"out": places(252, 7, (*YOLO_ROW, 0.8, 1.0, 0.0))}, NAMES),
        ({"out": places(84, 6, (*YOLO_ROW, 0.8, 0.0)).transpose(0, 2, 1)}, NAMES),
        ({"out": np.array([[(16, 24, 48, 40, 0.8, 0)]])}, NAMES),
        ({"out": np.array([[[(0, 0, 0.8, *SHARES), (-1, 0, 0, 0, 0, 0, 0)]]])}, NAMES),
        ({"scores": np.array([[(0.8, 0.1)]]), "boxes": np.array([[SHARES]])}, NAMES),
        ({"pred_logits": np.array([[(np.log(4), -9.0)]]), "pred_boxes": np.array([[CENTRED_SHARES]])}, NAMES),
        ({"dets": np.array([[CENTRED_SHARES]]), "labels": np.array([[(0.8, 0.1)]])}, NAMES),
        ({"out": places(300, 6, (*CENTRED_SHARES, 0.8, 0.0))}, {**NAMES, "description": "Ultralytics RT-DETR-l model"}),
    ],
    ids=["yolov5", "yolov8", "end2end", "ssd", "ssd pair", "rt-detr", "rf-detr", "rt-detr in one"],
)
async def test_a_box_in_any_layout_is_found_on_the_frame(
    answers: dict[str, Any], metadata: dict[str, str], tmp_path: Path
) -> None:
    detector = await load(tmp_path, answers, metadata)

    assert told(detector.detect(STREET)) == [CAR]


async def test_a_model_that_has_suppressed_doubles_keeps_what_it_found_unless_the_archive_wants_it(
    tmp_path: Path,
) -> None:
    doubles = {"out": np.array([[(16, 24, 48, 40, 0.7, 0), (16, 24, 48, 40, 0.9, 0), (16, 24, 48, 41, 0.8, 1)]])}

    by_itself = await load(tmp_path, doubles, NAMES)
    wanted = await load(tmp_path, doubles, NAMES, nms={"iou": 0.5, "acrossClasses": True})

    assert by_itself.detect(STREET).confidence.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert wanted.detect(STREET).confidence.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize(
    ("answer", "settings", "text"),
    [
        (np.array([[2, 0, 1, -1, 1]]), {}, "CAB"),
        (np.array([[2, 0, 1, -1, 1]]).reshape(1, 5, 1, 1), {}, "CAB"),
        (20 * np.eye(3)[[0, 1, 1, 2, 1]][np.newaxis], {"alphabet": ["", "A", "B"]}, "ABA"),
        (20 * np.eye(3)[[0, 1, 1, 2, 1]][:, np.newaxis], {"alphabet": ["", "A", "B"]}, "ABA"),
        (20 * np.eye(3)[[0, 1, 1, 2, 2]][np.newaxis], {"alphabet": ["A", "B", "_"]}, "ABB"),
        (20 * np.eye(3)[[0, 1, 1, 2, 2]][np.newaxis], {"alphabet": ["A", "B", "_"], "outputLayout": "textCtc"}, "AB"),
    ],
)
async def test_a_text_in_any_layout_is_read(answer: Any, settings: dict[str, Any], text: str, tmp_path: Path) -> None:
    reader = await load(tmp_path, {"text": answer}, {}, modelType="ocr", **{"alphabet": ["A", "B", "C"], **settings})

    assert reader.classify(STREET, 0.9).top_class == text


class Exchanging(Frame):
    """A picture that has the detector's model exchanged as soon as somebody looks at it, in the midst of a call."""

    __slots__ = ("detector", "model")

    def __init__(self, detector: YOLODetector, model: LoadedModel) -> None:
        super().__init__(squares_image({(100, 50): "blue"}), camera_id="", frame_id=1, time_s=0.0, captured_at=0.0)
        self.detector, self.model = detector, model

    @property
    def wh(self) -> tuple[int, int]:
        self.detector.use(self.model)
        return super().wh


async def test_a_model_is_exchanged_between_two_calls_and_never_within_one(tmp_path: Path) -> None:
    """Two models that differ in all that a call reads: layout, input size, letterbox, outputs and classes."""
    path, manager = tmp_path / "squares.onnx", new_manager()
    path.write_bytes(tiny_detector())
    squares = await manager.load_model(model_config(path, minConfidence=0.9))
    detector = await load(tmp_path, {"answer": np.array([[(16, 24, 48, 40, 0.8, 1)]])}, NAMES)
    plates = detector.model

    def names_of(found: Detections) -> list[str]:
        return [one.class_name for one in found.results(0)]

    assert names_of(detector.detect(Exchanging(detector, squares))) == ["plate"]
    assert detector.model is squares
    assert names_of(detector.detect(Exchanging(detector, plates))) == ["blue"]
    assert detector.model is plates


async def test_a_reader_is_exchanged_between_two_calls_and_never_within_one(tmp_path: Path) -> None:
    reader = await load(tmp_path, {"one": np.array([[0, 1, -1]])}, {}, modelType="ocr", alphabet=["A", "B"])
    one = reader.model
    kinds = {"modelType": "classification", "minConfidence": 0.95}
    other = (await load(tmp_path, {"two": np.array([[0.1, 0.9]])}, NAMES, **kinds)).model

    assert reader.classify(Exchanging(reader, other)).top_class == "AB"
    assert reader.classify(Exchanging(reader, one)).top_class is None
    assert reader.classify(Exchanging(reader, other)).top_class == "AB"


def frame_of(name: str, number: int = 0) -> Frame:
    """A real picture, or a real clip's frame."""
    path = assets_dir() / name
    if path.suffix == ".mp4":
        with av.open(str(path)) as clip:
            picture: Any = next(one for count, one in enumerate(clip.decode(video=0)) if count == number)
    else:
        picture = cv2.imread(str(path))
    return Frame(picture, camera_id="gate", frame_id=number, time_s=0.0, captured_at=0.0)


def overlap(found: Detections, name: str, box: tuple[int, int, int, int]) -> float:
    """The best overlap (IoU) of a class's detections with a box that a person drew."""
    boxes = [one.bounding_box for one in found.results(0) if one.class_name == name]
    drawn = type(boxes[0]).from_xyxy(np.array(box, np.float32)) if boxes else None
    return max((one.iou(drawn) for one in boxes if drawn), default=0.0)


CARS = [(57, 149, 211, 216), (259, 214, 413, 284), (488, 149, 630, 211)]
"""Of frame 160 of the traffic clip, as a person sees them; a fourth is cut by the edge."""


@pytest.mark.parametrize(
    ("model", "settings", "car"),
    [
        ("detector/fastestdet.onnx", {}, "class_2"),
        ("detector/vehicle-detection-0201.xml", {"classes": ["vehicle"], "minConfidence": 0.3}, "vehicle"),
    ],
)
async def test_real_detectors_of_other_layouts_find_the_cars_of_a_street(
    model: str, settings: dict[str, Any], car: str
) -> None:
    detector = await YOLODetector.load_model(new_manager(), model_config(assets_dir() / model, **settings))

    found = detector.detect(frame_of("clip/traffic_side.mp4", 160))

    assert min(overlap(found, car, box) for box in CARS) > 0.6


async def test_the_real_plate_detector_and_reader_find_and_read_what_can_be_read_of_a_plate() -> None:
    """Of this plate a person reads MD71; its province and its end were made unreadable."""
    provinces = [f"<{number}>" for number in range(34)]
    alphabet = [*"0123456789", *provinces, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    folder, manager, street = assets_dir() / "plate", new_manager(), frame_of("image/omz_barrier-0106.jpeg")
    detector = await YOLODetector.load_model(
        manager,
        model_config(folder / "vehicle-license-plate-detection-barrier-0106.xml", classes=[None, "vehicle", "plate"]),
    )
    reader = await YOLODetector.load_model(
        manager, model_config(folder / "license-plate-recognition-barrier-0007.xml", "ocr", alphabet=alphabet)
    )

    found = detector.detect(street)
    plate = next(one.bounding_box for one in found.results(0) if one.class_name == "plate")
    text = reader.classify(street.crop((round(plate.x1), round(plate.y1), round(plate.x2), round(plate.y2)))).top_class

    assert reader.model.reading.layout == "textIndex"
    assert overlap(found, "vehicle", (235, 122, 508, 464)) > 0.9
    assert overlap(found, "plate", (333, 411, 389, 432)) > 0.6
    assert text is not None
    assert "MD71" in text
