import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from support.assets import assets_dir
from support.loading import model_config, shared_manager
from support.tiny_models import ALPHABET, BGR, squares_image, tiny_classifier, tiny_detector, tiny_text_reader

from detector_worker.core.entities import Detections
from detector_worker.core.exceptions import ModelError, ModelLoadError
from detector_worker.core.frame import Frame
from detector_worker.detection.yolo_detector import YOLODetector

Loading = Callable[..., Awaitable[YOLODetector]]


@pytest.fixture
def load_detector(tmp_path: Path) -> Loading:
    async def load(
        hw: tuple[int, int] | None = (384, 640), wanted: frozenset[str] = frozenset(), **settings: Any
    ) -> YOLODetector:
        path = tmp_path / "tiny_detector.onnx"
        path.write_bytes(tiny_detector(hw))
        return await YOLODetector.load_model(shared_manager(), model_config(path, **settings), wanted_classes=wanted)

    return load


@pytest.fixture
def load_classifier(tmp_path: Path) -> Loading:
    async def load(output: str = "hue", **settings: Any) -> YOLODetector:
        path = tmp_path / "tiny_classifier.onnx"
        path.write_bytes(tiny_classifier())
        return await YOLODetector.load_model(
            shared_manager(), model_config(path, "classification", output=output, **settings)
        )

    return load


@pytest.fixture
def load_text_reader(tmp_path: Path) -> Loading:
    async def load(output: str = "text", **settings: Any) -> YOLODetector:
        path = tmp_path / "tiny_text_reader.onnx"
        path.write_bytes(tiny_text_reader())
        settings = {"output": output, "alphabet": ALPHABET, **settings}
        return await YOLODetector.load_model(shared_manager(), model_config(path, "ocr", **settings))

    return load


def stripes(*colours: str) -> Any:
    """A picture of stripes from left to right; a colour that is none is grey."""
    image = np.empty((40, 50 * len(colours), 3), np.uint8)
    for number, colour in enumerate(colours):
        image[:, 50 * number : 50 * (number + 1)] = BGR.get(colour, (128, 128, 128))
    return image


def frame_of(image: Any, *, as_yuv: bool = False) -> Frame:
    picture = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p") if as_yuv else image
    return Frame(picture, camera_id="gate", frame_id=1, time_s=0.0, captured_at=0.0)


def found(detections: Detections) -> dict[str, list[int]]:
    return {
        result.class_name: [round(value) for value in detections.xyxy[row].tolist()]
        for row, result in enumerate(detections.results(0.0))
    }


def assert_near(
    boxes: dict[str, list[int]], expected: dict[str, tuple[int, int, int, int]], tolerance_px: int = 4
) -> None:
    assert boxes.keys() == expected.keys()
    for name, box in expected.items():
        np.testing.assert_allclose(boxes[name], box, atol=tolerance_px)


@pytest.mark.parametrize("as_yuv", [False, True])
async def test_each_square_is_found_once_where_it_is(load_detector: Loading, as_yuv: bool) -> None:
    detector = await load_detector()
    image = squares_image({(101, 50): "red", (300, 205): "blue", (500, 121): "green"})

    detections = detector.detect(frame_of(image, as_yuv=as_yuv), 0.5)

    expected = {"red": (101, 50, 165, 114), "blue": (300, 205, 364, 269), "green": (500, 121, 564, 185)}
    assert_near(found(detections), expected)
    assert len(detections) == 3
    assert (np.diff(detections.confidence) <= 0).all()


async def test_wherever_a_square_lies_it_is_found_once(load_detector: Loading) -> None:
    detector = await load_detector()
    for offset in range(8):
        image = squares_image({(200 + offset, 100 + offset // 2 * 3): "green"})
        detections = detector.detect(frame_of(image, as_yuv=True), 0.3)
        assert len(detections) == 1
        assert detections.confidence[0] >= 0.58


async def test_an_empty_scene_gives_no_detections(load_detector: Loading) -> None:
    detections = (await load_detector()).detect(frame_of(squares_image({})), 0.5)

    assert len(detections) == 0
    assert detections.xyxy.shape == (0, 4)


async def test_boxes_are_in_pixels_of_the_full_frame(load_detector: Loading) -> None:
    detector = await load_detector()
    image = squares_image({(202, 100): "red"}, wh=(1280, 720), side_px=128)

    assert_near(found(detector.detect(frame_of(image), 0.5)), {"red": (202, 100, 330, 228)}, tolerance_px=8)


async def test_boxes_are_clipped_to_the_frame(load_detector: Loading) -> None:
    image = squares_image({})
    image[:56, :60] = (0, 0, 255)  # a square cut by two edges of the frame: the model's box reaches beyond both

    detections = (await load_detector()).detect(frame_of(image), 0.3)

    assert detections.xyxy.tolist() == [[0, 0, 60, 56]]


async def test_within_a_region_boxes_are_still_those_of_the_full_frame(load_detector: Loading) -> None:
    detector = await load_detector(hw=None)
    image = squares_image({(100, 60): "red", (500, 200): "blue"})

    detections = detector.detect(frame_of(image), 0.5, region=(320, 0, 960, 360))

    [box] = found(detections).values()
    assert list(found(detections)) == ["blue"]
    # Half the frame, enlarged to the model's 640 pixels: its box of 64 is one of 32 here, inside the square.
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    assert 500 <= centre[0] <= 564
    assert 200 <= centre[1] <= 264


@pytest.mark.parametrize("region", [(700, 0, 900, 100), (10, 10, 10, 50), (50, 50, 20, 20), (-50, -50, 0, 0)])
async def test_a_region_outside_the_frame_gives_nothing(
    load_detector: Loading, region: tuple[int, int, int, int]
) -> None:
    detector = await load_detector()

    assert len(detector.detect(frame_of(squares_image({(0, 0): "red"})), 0.1, region=region)) == 0


async def test_unwanted_and_unnamed_classes_are_dropped(load_detector: Loading) -> None:
    image = frame_of(squares_image({(100, 100): "red", (300, 100): "green", (500, 100): "blue"}))

    wanted = await load_detector(wanted=frozenset({"RED", "Blue"}))
    unnamed = await load_detector(classes=["rot", None])

    assert set(found(wanted.detect(image, 0.5))) == {"red", "blue"}
    assert set(found(unnamed.detect(image, 0.5))) == {"rot"}


async def test_doubles_of_two_classes_are_one_object_where_the_archive_says_so(load_detector: Loading) -> None:
    image = squares_image({(100, 144): "red", (148, 144): "blue"})
    image[144:208, 148:164] = (255, 0, 255)  # where they overlap, something of both
    frame = frame_of(image)

    apart = (await load_detector(nms={"iou": 0.1})).detect(frame, 0.5)
    together = (await load_detector(nms={"iou": 0.1, "acrossClasses": True})).detect(frame, 0.5)

    assert set(found(apart)) == {"red", "blue"}
    assert len(apart) == 2
    assert len(together) == 1


async def test_the_archives_confidence_holds_unless_another_is_asked_for(load_detector: Loading) -> None:
    detector = await load_detector(minConfidence=0.99)
    frame = frame_of(squares_image({(101, 50): "red"}))

    assert len(detector.detect(frame)) == 0
    assert len(detector.detect(frame, 0.5)) == 1


async def test_a_model_of_open_size_sees_the_same_as_one_of_fixed_size(load_detector: Loading) -> None:
    frame = frame_of(squares_image({(101, 50): "red", (300, 205): "blue"}))

    fixed, opened = [(await load_detector(hw=hw)).detect(frame, 0.5) for hw in ((384, 640), None)]

    np.testing.assert_allclose(fixed.xyxy, opened.xyxy)
    np.testing.assert_allclose(fixed.confidence, opened.confidence, atol=1e-5)


async def test_threads_at_once_see_their_own_frames(load_detector: Loading) -> None:
    detector = await load_detector(hw=None)
    barrier = threading.Barrier(4)

    def look(number: int) -> bool:
        x, wh = 40 + 100 * number, ((640, 360), (640, 480))[number % 2]
        frame = frame_of(squares_image({(x, 100): "red"}, wh=wh), as_yuv=True)
        barrier.wait(timeout=10)
        return all(abs(found(detector.detect(frame, 0.5))["red"][0] - x) <= 4 for _ in range(15))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(look, range(4)))


async def test_a_crop_is_named(load_classifier: Loading) -> None:
    hue, tone = await load_classifier("hue", classes=["red", "green", "blue"]), await load_classifier("tone")
    crop = np.full((50, 90, 3), (0, 255, 0), np.uint8)

    assert hue.classify(crop).top_class == "green"
    assert hue.classify(crop).confidence > 0.99
    assert tone.classify(crop).top_class == "class_1"
    assert tone.classify(crop // 2).top_class == "class_0"
    assert hue.classify(frame_of(crop)).top_class == "green"


async def test_below_the_asked_confidence_there_is_no_class_but_a_confidence(load_classifier: Loading) -> None:
    grey = np.full((40, 40, 3), 128, np.uint8)

    result = (await load_classifier()).classify(grey, 0.5)

    assert result.top_class is None
    assert result.confidence == pytest.approx(1 / 3, abs=0.01)


async def test_a_view_of_a_frame_is_classified_without_a_copy_by_the_caller(load_classifier: Loading) -> None:
    classifier = await load_classifier(classes=["red", "green", "blue"])
    frame = frame_of(squares_image({(100, 100): "blue"}))

    assert classifier.classify(frame.crop((100, 100, 164, 164))).top_class == "blue"


@pytest.mark.parametrize("output", ["text", "logits"])
async def test_a_text_is_read_without_its_padding(load_text_reader: Loading, output: str) -> None:
    reader = await load_text_reader(output)

    result = reader.classify(stripes("blue", "red", "green", "grey"))

    assert result.top_class == "BRG"
    assert result.confidence > 0.99
    assert reader.classify(frame_of(stripes("grey", "green", "grey", "green"))).top_class == "GG"


async def test_where_all_is_padding_there_is_no_text_but_a_confidence(load_text_reader: Loading) -> None:
    result = (await load_text_reader()).classify(stripes(*["grey"] * 4), 0.0)

    assert result.top_class is None
    assert result.confidence > 0.99


async def test_a_text_with_one_unsure_symbol_is_below_the_threshold(load_text_reader: Loading) -> None:
    reader, image = await load_text_reader(minConfidence=0.6), stripes("red", "red", "blue", "blue")
    image[:20, 50:100] = 128  # of the second symbol one half

    unsure = reader.classify(image)

    assert unsure.top_class is None
    assert unsure.confidence == pytest.approx(1 / 2, abs=0.1)
    assert reader.classify(image, 0.0).top_class in {"RRBB", "RBB"}


async def test_a_text_model_with_an_alphabet_that_does_not_fit_is_not_loaded(load_text_reader: Loading) -> None:
    with pytest.raises(ModelLoadError, match="has 4 symbols, the archive's alphabet 3"):
        await load_text_reader(alphabet=ALPHABET[:3])
    with pytest.raises(ModelLoadError, match="has no alphabet"):
        await load_text_reader(alphabet=None)


async def test_misuse_is_a_clear_error(
    load_detector: Loading, load_classifier: Loading, load_text_reader: Loading
) -> None:
    detector, classifier = await load_detector(), await load_classifier()

    with pytest.raises(ModelError, match="does not classify"):
        detector.classify(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ModelError, match="does not detect"):
        classifier.detect(frame_of(squares_image({})))
    with pytest.raises(ModelError, match="does not detect"):
        (await load_text_reader()).detect(frame_of(squares_image({})))
    with pytest.raises(ModelError, match="empty picture"):
        classifier.classify(np.zeros((0, 8, 3), np.uint8))


async def test_the_real_detector_agrees_with_its_description() -> None:
    """YOLOX-nano on a real frame: the way of the detector against cells read one by one from the raw output."""
    path = assets_dir() / "detector" / "yolox_nano.onnx"
    detector = await YOLODetector.load_model(shared_manager(), model_config(path, nms={"acrossClasses": True}))
    with av.open(str(assets_dir() / "clip" / "traffic_side.mp4")) as clip:
        picture = next(frame for number, frame in enumerate(clip.decode(video=0)) if number == 160)
    frame = Frame(picture, camera_id="gate", frame_id=160, time_s=0.0, captured_at=0.0)

    detections = detector.detect(frame, 0.5)

    canvas = np.full((416, 416, 3), 114, np.uint8)
    canvas[:234] = picture.reformat(416, 234, "bgr24", interpolation="BILINEAR").to_ndarray()
    [raw] = detector.model.compiled_for((640, 360)).infer(canvas).values()
    best = int((raw[0, :, 4] * raw[0, :, 5:].max(axis=1)).argmax())
    stride, offset = (8, 0) if best < 2704 else (16, 2704) if best < 3380 else (32, 3380)
    row, column = divmod(best - offset, 416 // stride)
    x, y, w, h = raw[0, best, :4].astype(np.float64)
    centre, wh = np.array(((x + column) * stride, (y + row) * stride)), np.exp((w, h)) * stride
    expected = np.concatenate((centre - wh / 2, centre + wh / 2)) / 0.65
    assert len(detections) >= 4
    assert detections.confidence[0] == pytest.approx(raw[0, best, 4] * raw[0, best, 5:].max(), abs=1e-6)
    np.testing.assert_allclose(detections.xyxy[0], expected.clip(0, [640, 360, 640, 360]), atol=0.01)


async def test_the_real_plate_reader_reads_a_plate_and_is_unsure_of_one_that_no_eye_can_read() -> None:
    path = assets_dir() / "plate" / "cct_xs_v1_global.onnx"
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_"
    reader = await YOLODetector.load_model(shared_manager(), model_config(path, "ocr", alphabet=tuple(alphabet)))
    clean = np.full((80, 320, 3), 235, np.uint8)
    cv2.putText(clean, "MH12DE14", (16, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.8, (20, 20, 20), 5)
    # Of this car's plate a person can read no more than the beginning.
    street = cv2.imread(str(assets_dir() / "image" / "omz_barrier-0106.jpeg"))
    assert street is not None
    unreadable = np.asarray(street[412:432, 342:395], np.uint8)

    read, unsure = reader.classify(clean), reader.classify(unreadable, 0.0)

    assert read.top_class == "MH12DE14"
    assert read.confidence > 0.95
    assert unsure.top_class is not None
    assert unsure.top_class.startswith("M")
    assert unsure.confidence < 0.5
