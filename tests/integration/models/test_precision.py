"""bf16 only where it was seen to find the same: on an archive's samples, or on what its cameras show."""

import asyncio
import json
import resource
import sys
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.assets import assets_dir
from support.loading import runtime
from support.tried import share_trials

from detector_worker.cli.demo.command import ARCHIVE
from detector_worker.core.config import Configuration
from detector_worker.core.exceptions import MessageProcessingError, ModelLoadError
from detector_worker.core.frame import Frame
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.engine.engine import SubscriptionOptions, SubscriptionSpec
from detector_worker.engine.file_run import FileRun
from detector_worker.engine.group import Group
from detector_worker.engine.group_models import precision_records
from detector_worker.engine.lane import Lane
from detector_worker.engine.precision import _read_samples
from detector_worker.models.precision_records import PrecisionRecord
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
from detector_worker.models.runtimes.runtime import Precision
from detector_worker.simulator.scenes.stills import STILLS_PER_PLACE, still

sys.path.append(str(Path(__file__).parents[3] / "tools"))
from pack_real_assets import DETECTOR, pipeline

pytestmark = pytest.mark.skipif("bf16" not in runtime().precisions, reason="this processor has no bf16")

Picture = NDArray[np.uint8]
FIRST_PLACE = 10_600_000


class NoOutbox:
    async def accept(self, entries: object, *, visit: object = None, session: object = None) -> None: ...

    async def save_visit(self, visit: object) -> None: ...

    async def forget_visit(self, record_id: str) -> None: ...


@asynccontextmanager
async def a_lane(folder: Path, archive: Path, precision: Any = None) -> AsyncIterator[tuple[Lane, Group]]:
    """A lane of a camera that nobody has connected yet."""
    configuration = Configuration.model_validate({"server": {"data_dir": str(share_trials(folder))}})
    owner = FileRun(outbox=NoOutbox(), on_analysed=lambda _: None, on_run=lambda _: None)
    group = Group(configuration, owner=owner, threads=1, any_path=True)
    await group.start()
    options = SubscriptionOptions(precision=precision)
    spec = SubscriptionSpec("desk;gate", "desk", "gate", str(archive), rtsp_url="rtsp://127.0.0.1/", options=options)
    try:
        yield await group.load_lane(spec, lossless=False), group
    finally:
        assert await group.stop(grace_s=0) == []


def precision_of(detector: YOLODetector) -> str:
    return detector.model.shared.precision


def known(folder: Path) -> list[PrecisionRecord]:
    configuration = Configuration.model_validate({"server": {"data_dir": str(folder)}})
    return list(precision_records(configuration).all())


def with_samples(source: Path, target: Path, pictures: Iterator[Picture]) -> Path:
    """The same archive, with pictures of what its cameras see."""
    target.write_bytes(source.read_bytes())
    with zipfile.ZipFile(target, "a") as archive:
        for number, picture in enumerate(pictures):
            _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
            archive.writestr(f"samples/{number:03}.jpg", encoded.tobytes())
    return target


@cache
def scene(number: int) -> bytes:
    """As a file, since many tests look at the same ones and drawing them takes most of the time."""
    picture, _ = still((FIRST_PLACE + number // 4) * STILLS_PER_PLACE + number % 4)
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def scenes(count: int) -> Iterator[Picture]:
    for number in range(count):
        yield cast("Picture", cv2.imdecode(np.frombuffer(scene(number), np.uint8), cv2.IMREAD_COLOR))


def clip_pictures(path: Path, *, every: int) -> Iterator[Picture]:
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % every == 0:
                yield cast("Picture", frame.to_ndarray(format="bgr24"))


def frames(pictures: Iterator[Picture]) -> list[Frame]:
    return [
        Frame(picture, camera_id="gate", frame_id=number, time_s=10.0 * number, captured_at=0.0)
        for number, picture in enumerate(pictures)
    ]


@pytest.fixture
def real_archive(tmp_path: Path) -> Path:
    """YOLOX-nano alone, as the packed real archive uses it, with pictures of the shared clips."""
    assets, path = assets_dir(), tmp_path / "real.mpta"
    only_detector = pipeline() | {}
    only_detector["pipeline"] |= {"branches": [], "actions": [], "parallelActions": []}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pipeline.json", json.dumps(only_detector))
        archive.write(assets / DETECTOR, DETECTOR.name)
    return with_samples(path, tmp_path / "samples.mpta", clip_pictures(assets / "clip/traffic_side.mp4", every=16))


async def test_a_network_that_loses_objects_in_bf16_stays_in_f32_and_the_record_says_why(
    tmp_path: Path, real_archive: Path
) -> None:
    async with a_lane(tmp_path / "data", real_archive) as (lane, _):
        assert precision_of(lane.detector) == "f32"

    (record,) = known(tmp_path / "data")
    assert not record.is_taken
    assert record.precision == "bf16"
    assert "objects lost" in record.reason
    assert "samples" in record.reason


async def test_a_network_that_bears_bf16_gets_it_and_is_checked_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    archive = with_samples(ARCHIVE, tmp_path / "demo.mpta", scenes(16))

    for _ in range(2):
        async with a_lane(tmp_path / "data", archive) as (lane, group):
            assert precision_of(lane.detector) == "bf16"
            assert lane.loaded.models["demo_gate_v1"] is lane.detector.model
            in_use = group._models.manager.get_cache_stats().in_use
            assert in_use == 4, "the detector in f32 is held no more"

    (record,) = known(tmp_path / "data")
    assert record.is_taken
    assert caplog.text.count("is computed in bf16") == 1


async def test_many_who_ask_at_once_share_one_check(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    archive = with_samples(ARCHIVE, tmp_path / "demo.mpta", scenes(16))
    async with a_lane(tmp_path / "data", ARCHIVE) as (first, group):
        spec = replace(first.spec, model_url=str(archive))
        lanes = await asyncio.gather(*(group.load_lane(spec, lossless=False) for _ in range(8)))

    assert {precision_of(lane.detector) for lane in lanes} == {"bf16"}
    assert caplog.text.count("is computed in bf16") == 1


async def test_where_the_lower_precision_cannot_be_had_the_archive_works_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = OpenVINORuntime.compile

    def broken(self: OpenVINORuntime, path: Path, *rest: Any, precision: Precision = "f32", **more: Any) -> Any:
        if precision == "bf16":
            raise ModelLoadError("It cannot be compiled so", where=f"model {path.name}", mend="None.")
        return real(self, path, *rest, precision=precision, **more)

    monkeypatch.setattr(OpenVINORuntime, "compile", broken)
    archive = with_samples(ARCHIVE, tmp_path / "demo.mpta", scenes(16))

    async with a_lane(tmp_path / "data", archive) as (lane, group):
        assert precision_of(lane.detector) == "f32"
        assert group._models.manager.get_cache_stats().in_use == 4
    assert "stays in f32: It cannot be compiled so" in caplog.text


async def test_a_parked_car_counts_once_however_long_it_stands(tmp_path: Path) -> None:
    async with a_lane(tmp_path / "data", ARCHIVE) as (lane, group):
        choice, (picture,) = group._maker.precision, frames(scenes(1))
        found = await asyncio.to_thread(lane.detector.detect, picture)
        for number in range(40):
            same = Frame(picture.bgr(), camera_id="gate", frame_id=number, time_s=10.0 * number, captured_at=0.0)
            choice.observe(lane.detector, same, found, None)

        (collection,) = choice._by_use.values()
        assert (len(collection.pictures), collection.objects) == (1, len(found))


async def test_large_samples_take_little_memory(tmp_path: Path) -> None:
    large = iter([np.full((5000, 8000, 3), 90, np.uint8)] * 6)
    archive = with_samples(ARCHIVE, tmp_path / "demo.mpta", large)
    resource_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async with a_lane(tmp_path / "data", archive) as (lane, _):
        assert precision_of(lane.detector) == "f32"
        kept = _read_samples(lane.loaded.samples, lane.detector)
        assert [frame.wh for frame in kept] == [(614, 384)] * 6, "no larger than the model sees them"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resource_before) << 10
    assert grown < 400 << 20, "six of them together are 720 MB"


async def test_without_samples_what_the_cameras_show_decides_while_they_are_analysed(tmp_path: Path) -> None:
    async with a_lane(tmp_path / "data", ARCHIVE) as (lane, group):
        detector, choice = lane.detector, group._maker.precision
        assert precision_of(detector) == "f32"
        seen = frames(scenes(32))
        counts: list[int] = []
        failures: list[BaseException] = []
        stopping = threading.Event()

        def analyse() -> None:
            while not stopping.is_set():
                try:
                    counts.append(len(detector.detect(seen[0])))
                except BaseException as exc:  # noqa: BLE001 - whatever it is, it must not be
                    failures.append(exc)

        thread = threading.Thread(target=analyse)
        thread.start()
        for frame in seen:
            choice.observe(detector, frame, await asyncio.to_thread(detector.detect, frame), None)
        await choice.tend(time.monotonic())
        await asyncio.sleep(0.2)
        stopping.set()
        thread.join()

        assert precision_of(detector) == "bf16"
        assert failures == []
        assert len(set(counts)) == 1, "the same objects before, while and after it was exchanged"
        assert len(counts) > 20
    (record,) = known(tmp_path / "data")
    assert "what cameras showed" in record.reason


async def test_another_group_takes_up_what_was_found_out(tmp_path: Path) -> None:
    archive = with_samples(ARCHIVE, tmp_path / "demo.mpta", scenes(16))
    async with a_lane(tmp_path / "data", ARCHIVE) as (waiting, group):
        assert precision_of(waiting.detector) == "f32"
        async with a_lane(tmp_path / "data", archive) as (checked, _):
            assert precision_of(checked.detector) == "bf16"

        await group._maker.precision.tend(time.monotonic() + 61)

        assert precision_of(waiting.detector) == "bf16"


async def test_too_few_objects_decide_nothing(tmp_path: Path) -> None:
    grey = iter([np.full((360, 640, 3), 120, np.uint8)] * 3)
    archive = with_samples(ARCHIVE, tmp_path / "demo.mpta", grey)

    async with a_lane(tmp_path / "data", archive) as (lane, _):
        assert precision_of(lane.detector) == "f32"
    assert known(tmp_path / "data") == []


@pytest.mark.parametrize("wish", ["f32", "bf16"])
async def test_what_was_asked_for_is_done_unasked(tmp_path: Path, wish: str) -> None:
    async with a_lane(tmp_path / "data", ARCHIVE, wish) as (lane, _):
        assert precision_of(lane.detector) == wish


@pytest.mark.skipif(find_spec("nncf") is None, reason="needs the extra int8")
@pytest.mark.timeout(300)
async def test_int8_is_made_once_of_the_archives_samples(tmp_path: Path) -> None:
    archive = with_samples(ARCHIVE, tmp_path / "demo.mpta", scenes(14))
    for _ in range(2):
        async with a_lane(tmp_path / "data", archive, "int8") as (lane, _):
            assert precision_of(lane.detector) == "int8"
            assert set(lane.detector.model.compiled_for((1280, 720)).computed_in) & {"i8", "u8"}
            assert lane.detector.model.reading.class_names == ("vehicle", "frontal", "plate", "person")
            assert len(lane.detector.detect(frames(scenes(1))[0])) > 0
    assert len(list((tmp_path / "data" / "models" / "made").glob("*.xml"))) == 1

    with pytest.raises(ModelLoadError, match="no int8 network can be made"):
        async with a_lane(tmp_path / "data", ARCHIVE, "int8"):
            pass


@pytest.mark.skipif(find_spec("nncf") is not None, reason="the extra int8 is installed")
async def test_a_precision_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MessageProcessingError, match=r"does not compute in int8.*offers auto, f32, bf16.*extra `int8`"):
        async with a_lane(tmp_path / "data", ARCHIVE, "int8"):
            pass


async def test_samples_that_are_no_pictures_harm_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = with_samples(ARCHIVE, tmp_path / "demo.mpta", scenes(16))
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("samples/900.jpg", b"\xff\xd8\xffno picture")
        more.writestr("samples/901.png", b"nothing")

    async with a_lane(tmp_path / "data", archive) as (lane, _):
        assert precision_of(lane.detector) == "bf16"
    assert "901.png" in caplog.text
