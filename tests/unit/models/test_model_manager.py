import asyncio
import shutil
import threading
from pathlib import Path

import pytest
from support.loading import model_config, new_manager, runtime
from support.tiny_models import squares_image, tiny_classifier, tiny_detector

from detector_worker.core.exceptions import ModelCacheError, ModelLoadError
from detector_worker.core.frame import Frame
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.model_manager import ModelConfig, ModelManager
from detector_worker.models.runtimes.runtime import CompiledModel, ModelSpec, Precision, Preprocessing
from detector_worker.models.shared_model import SharedModel


class CountingRuntime:
    """The real runtime, with every compilation noted."""

    precisions: tuple[Precision, ...] = ("f32", "bf16")

    def __init__(self) -> None:
        self.identity = runtime().identity
        self.compiled: list[tuple[str, tuple[int, int]]] = []
        self.threads: set[int] = set()

    def read_spec(self, path: Path, *, input_hw: tuple[int, int]) -> ModelSpec:
        return runtime().read_spec(path, input_hw=input_hw)

    def compile(
        self, path: Path, preprocessing: Preprocessing, *, input_hw: tuple[int, int], precision: Precision = "f32"
    ) -> CompiledModel:
        self.compiled.append((path.name, input_hw))
        self.threads.add(threading.get_ident())
        return runtime().compile(path, preprocessing, input_hw=input_hw, precision=precision)


@pytest.fixture
def detector_file(tmp_path: Path) -> Path:
    path = tmp_path / "detector.onnx"
    path.write_bytes(tiny_detector())
    return path


@pytest.fixture
def copied_file(detector_file: Path) -> Path:
    return Path(shutil.copy(detector_file, detector_file.with_name("copy.onnx")))


@pytest.fixture
def open_file(tmp_path: Path) -> Path:
    path = tmp_path / "open.onnx"
    path.write_bytes(tiny_detector(None))
    return path


@pytest.fixture
def classifier_file(tmp_path: Path) -> Path:
    path = tmp_path / "classifier.onnx"
    path.write_bytes(tiny_classifier())
    return path


async def test_many_who_ask_at_once_share_one_load(detector_file: Path) -> None:
    counting = CountingRuntime()
    manager = ModelManager(counting, memory_budget_bytes=1 << 30)

    models = await asyncio.gather(*(manager.load_model(model_config(detector_file)) for _ in range(20)))

    assert len(counting.compiled) == 1
    assert len({id(model.shared) for model in models}) == 1
    assert threading.get_ident() not in counting.threads


async def test_the_same_content_under_another_name_is_the_same_network(detector_file: Path, copied_file: Path) -> None:
    manager = new_manager()

    one, other = [await manager.load_model(model_config(file)) for file in (detector_file, copied_file)]

    assert one.shared is other.shared


async def test_another_preprocessing_is_another_network(detector_file: Path) -> None:
    manager = new_manager()

    one = await manager.load_model(model_config(detector_file))
    other = await manager.load_model(model_config(detector_file, input={"color": "bgr"}))

    assert one.shared is not other.shared


async def test_two_branches_read_two_outputs_of_one_network(classifier_file: Path) -> None:
    manager = new_manager()

    hue, tone = [
        await manager.load_model(model_config(classifier_file, "classification", output=name))
        for name in ("hue", "tone")
    ]

    assert hue.shared is tone.shared
    assert (len(hue.reading.class_names), len(tone.reading.class_names)) == (3, 2)


async def test_what_is_in_use_stays_and_what_is_not_makes_room(
    detector_file: Path, classifier_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measured = new_manager()
    await measured.load_model(model_config(detector_file))
    manager = new_manager(memory_budget_bytes=measured.get_memory_usage() + 1)
    detector = await manager.load_model(model_config(detector_file))

    await manager.load_model(model_config(classifier_file, "classification", output="hue"))
    both = manager.get_cache_stats()
    assert (both.models, both.evictions) == (2, 0)
    assert "all of them stay" in caplog.text

    manager.unload_model(detector)
    await manager.load_model(model_config(detector_file, input={"color": "bgr"}))
    after = manager.get_cache_stats()
    assert (after.models, after.evictions) == (2, 1)
    assert detector.shared.memory_bytes > 0  # whoever still has it can go on


async def test_three_in_use_with_room_for_two_stay_and_are_never_loaded_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counting, files = CountingRuntime(), []
    for number, side in enumerate((320, 352, 384)):
        files.append(tmp_path / f"detector-{number}.onnx")
        files[-1].write_bytes(tiny_detector((64, side)))
    measured = new_manager()
    await measured.load_model(model_config(files[2]))
    manager = ModelManager(counting, memory_budget_bytes=2 * measured.get_memory_usage() + 1000)
    detectors = [await YOLODetector.load_model(manager, model_config(file)) for file in files]
    picture = Frame(squares_image({}, wh=(320, 64)), camera_id="c", frame_id=0, time_s=0.0, captured_at=0.0)

    for minute in range(10):  # of cameras at ten pictures a minute, one of which is subscribed to anew each minute
        for _ in range(10):
            for detector in detectors:
                detector.detect(picture)
        before = detectors[minute % 3].model
        detectors[minute % 3].use(await manager.load_model(before.config))
        manager.unload_model(before)

    stats = manager.get_cache_stats()
    assert (stats.models, stats.in_use, stats.loads, stats.hits, stats.evictions) == (3, 3, 3, 10, 0)
    assert len(counting.compiled) == 3
    assert caplog.text.count("all of them stay") == 1


async def test_another_precision_is_another_network(detector_file: Path) -> None:
    manager = new_manager()

    one = await manager.load_model(model_config(detector_file))
    other = await manager.load_model(model_config(detector_file), precision="bf16")

    assert one.shared is not other.shared
    assert (one.shared.precision, other.shared.precision) == ("f32", "bf16")


async def test_a_measured_network_counts_as_it_was_measured(open_file: Path) -> None:
    """A second input size is added in proportion."""
    shared = SharedModel(runtime(), open_file, Preprocessing(), measured_bytes=7_000_000)

    shared.compiled((384, 640))
    first = shared.memory_bytes
    shared.compiled((192, 320))

    assert first == 7_000_000
    assert first < shared.memory_bytes < 2 * first


async def test_the_longest_unused_goes_first(detector_file: Path) -> None:
    measured = new_manager()
    await measured.load_model(model_config(detector_file))
    counting = CountingRuntime()
    manager = ModelManager(counting, memory_budget_bytes=measured.get_memory_usage() * 2)
    for color in ("rgb", "bgr", "rgb"):
        manager.unload_model(await manager.load_model(model_config(detector_file, input={"color": color})))

    await manager.load_model(model_config(detector_file, input={"padValue": 3, "scale": 2}))
    assert manager.get_cache_stats().evictions == 1
    await manager.load_model(model_config(detector_file))

    assert len(counting.compiled) == 3, "rgb was used last, so bgr had to go"


async def test_a_hold_is_given_back_once_however_often_it_is_unloaded(detector_file: Path) -> None:
    manager = new_manager()
    one, other = [await manager.load_model(model_config(detector_file)) for _ in range(2)]

    manager.unload_model(one)
    manager.unload_model(one)

    assert manager.cleanup_unused() == 0
    manager.unload_model(other)
    assert manager.cleanup_unused() == 1
    assert manager.get_memory_usage() == 0


async def test_a_loaded_model_is_found_by_its_id(detector_file: Path) -> None:
    manager = new_manager()
    model = await manager.load_model(model_config(detector_file))

    assert manager.get_model("detector") is model
    manager.unload_model(model)
    assert manager.get_model("detector") is None


async def test_a_caller_that_gives_up_leaves_no_hold(detector_file: Path) -> None:
    manager = new_manager()
    loading = asyncio.create_task(manager.load_model(model_config(detector_file)))
    await asyncio.sleep(0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading

    assert manager.get_cache_stats().in_use == 0


async def test_a_model_larger_than_the_budget_is_refused(detector_file: Path) -> None:
    manager = new_manager(memory_budget_bytes=1000)

    with pytest.raises(ModelCacheError, match="memory_budget_mb"):
        await manager.load_model(model_config(detector_file))
    assert manager.get_cache_stats().models == 0


async def test_a_missing_and_a_broken_file_are_clear_errors(tmp_path: Path) -> None:
    manager = new_manager()
    (tmp_path / "broken.onnx").write_bytes(b"nothing")

    with pytest.raises(ModelLoadError, match=r"absent\.onnx cannot be read"):
        await manager.load_model(model_config(tmp_path / "absent.onnx"))
    with pytest.raises(ModelLoadError, match="no readable ONNX"):
        await manager.load_model(model_config(tmp_path / "broken.onnx"))
    assert manager.get_cache_stats().models == 0


async def test_a_model_of_open_size_is_compiled_once_for_each_proportion(open_file: Path) -> None:
    counting = CountingRuntime()
    model = await ModelManager(counting, memory_budget_bytes=1 << 30).load_model(model_config(open_file))

    sizes = [model.compiled_for(wh).input_hw for wh in ((1280, 720), (640, 360), (640, 480), (1080, 1920))]

    assert sizes == [(384, 640), (384, 640), (480, 640), (640, 384)]
    assert len(counting.compiled) == 3


async def test_a_model_of_open_size_has_few_sizes(open_file: Path) -> None:
    counting = CountingRuntime()
    model = await ModelManager(counting, memory_budget_bytes=1 << 30).load_model(model_config(open_file))

    last = [model.compiled_for((640, height)).input_hw for height in range(64, 640, 32)][-1]

    assert last == (640, 640)
    assert all(model.is_ready_for((640, height)) for height in range(64, 640, 32)), "or nothing would be analysed"
    assert len(counting.compiled) <= 7


def test_settings_that_are_no_models_are_refused_without_their_values() -> None:
    with pytest.raises(ModelLoadError, match="modelFile") as caught:
        ModelConfig.from_dict({"modelId": "m", "modelType": "canary-secret"})

    assert "canary" not in str(caught.value)


def test_a_branchs_other_keys_are_passed_over(tmp_path: Path) -> None:
    data = {"modelId": "m", "modelFile": "m.onnx", "modelType": "classification", "resultField": "brand"}

    config = ModelConfig.from_dict(data, folder=tmp_path)

    assert (config.path, config.settings.model_id) == (tmp_path / "m.onnx", "m")
