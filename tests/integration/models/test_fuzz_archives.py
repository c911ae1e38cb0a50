"""Thousands of damaged archives and pipeline files: refused or accepted, never a traceback, never a write elsewhere."""

import gc
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import psutil
import pytest
from support.mutations import mutated_bytes, mutated_document, mutated_zip
from support.tiny_models import tiny_classifier, tiny_pipeline, zip_bytes

from detector_worker.core.exceptions import DetectorWorkerError
from detector_worker.models.archives.unpacking import ArchiveLimits, unpack_archive
from detector_worker.models.pipeline_json.checks import pipeline_faults
from detector_worker.models.pipeline_json.parser import examine_pipeline, refuse

COUNT: Final = 10_000
SOAK: Final = 200_000
MAX_SECONDS: Final = 6.0
"""Of CPU: the worst took 0.6 alone, and 1.8 with its coverage measured."""
MAX_GROWTH_BYTES: Final = 100 << 20
LIMITS: Final = ArchiveLimits(archive_bytes=1 << 20, inflated_bytes=4 << 20, entries=20)
COUNTS: Final = [
    pytest.param(COUNT, marks=pytest.mark.slow),
    pytest.param(SOAK, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
]

PIPELINE: Final = tiny_pipeline(
    tracking={"method": "bytetrack", "maxLostSeconds": 2.0},
    stability={"minFrames": 4, "minSeconds": 0.5, "minIou": 0.5, "reentrySeconds": 10},
    motion={"enabled": True},
    nms={"iou": 0.5, "acrossClasses": True},
    input={"color": "rgb", "letterbox": "center"},
    postgresql={"host": "db", "password": "canary!"},
)
FILES: Final = {"tiny_detector.onnx": b"\x08\x0a" * 50, "models/tiny_classifier.onnx": tiny_classifier()[:500]}


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such: what is flushed to a real disk takes most of the time."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@contextmanager
def judged(surroundings: Path) -> Iterator[tuple[Path, Callable[[Callable[[], object]], bool]]]:
    """Give a folder to work in, and who runs one case there and tells whether it was accepted.

    Each case must take less than a second, all together little memory, and nothing may appear beside the folder.
    """
    inside = surroundings / "around" / "inside"
    inside.mkdir(parents=True)
    (surroundings / "around" / "witness").write_text("as it was")
    process, slowest_s = psutil.Process(), 0.0

    def run(case: Callable[[], object]) -> bool:
        nonlocal slowest_s
        started_s = time.thread_time()
        try:
            case()
        except DetectorWorkerError as exc:
            told = exc
        else:
            return True
        finally:
            slowest_s = max(slowest_s, time.thread_time() - started_s)
        assert told.mend
        assert "canary" not in str(told)
        return False

    gc.collect()
    before_bytes = process.memory_info().rss
    yield inside, run
    assert process.memory_info().rss - before_bytes < MAX_GROWTH_BYTES
    assert slowest_s < MAX_SECONDS
    assert {
        path.relative_to(surroundings).as_posix() for path in surroundings.rglob("*") if inside not in path.parents
    } == {
        "around",
        "around/inside",
        "around/witness",
    }
    assert (surroundings / "around" / "witness").read_text() == "as it was"


@pytest.mark.parametrize("count", COUNTS)
def test_mutated_archives(quick_path: Path, count: int) -> None:
    rng = random.Random(5)
    files = {"pipeline.json": json.dumps(PIPELINE).encode(), **FILES}
    original = zip_bytes(files)
    accepted = 0
    with judged(quick_path) as (inside, run):
        archive, folder = inside / "a.mpta", inside / "unpacked"
        for number in range(count):
            if number % 4:
                archive.write_bytes(mutated_zip(rng, original))
            else:  # a sound archive of a damaged file gets further
                name = rng.choice(list(files))
                archive.write_bytes(zip_bytes({**files, name: mutated_bytes(rng, files[name])}))
            accepted += run(partial(_use, archive, folder))
            shutil.rmtree(folder, ignore_errors=True)

    assert count * 0.05 < accepted < count * 0.6


def _use(archive: Path, folder: Path) -> None:
    """As the loader does, up to the models."""
    unpack_archive(archive, folder, LIMITS, where="archive 'a.mpta'")
    if (folder / "pipeline.json").is_file():
        _parse((folder / "pipeline.json").read_bytes(), folder)


def _parse(content: bytes, folder: Path) -> None:
    examined = examine_pipeline(content)
    if examined.config is not None:  # also where it is faulty: then it is the pipeline as it was meant
        assert all(isinstance(fault, str) for fault in pipeline_faults(examined.config, folder))
    refuse(examined.faults, "archive 'a.mpta'")


@pytest.mark.parametrize("count", COUNTS)
def test_mutated_pipeline_files(quick_path: Path, count: int) -> None:
    rng = random.Random(6)
    old = {"pipeline": PIPELINE["pipeline"]}  # without schemaVersion: read leniently
    accepted = 0
    with judged(quick_path) as (inside, run):
        for name, content in FILES.items():
            (inside / name).parent.mkdir(exist_ok=True)
            (inside / name).write_bytes(content)
        for number in range(count):
            document = old if number % 3 == 0 else PIPELINE
            content = mutated_document(rng, document)
            if number % 5 == 0:
                content = mutated_bytes(rng, content)
            accepted += run(partial(_parse, content, inside))

    assert count * 0.05 < accepted < count * 0.6


WORST: Final = {
    "many keys, all of them twice": '{"pipeline": {' + ",".join(f'"k{one % 9000}": 0' for one in range(18_000)) + "}}",
    "many branches that are none": '{"pipeline": {"branches": [' + ",".join(["0"] * 19_000) + "]}}",
    "many actions of an unknown kind": '{"pipeline": {"actions": [' + ",".join(['{"type": "x"}'] * 9_000) + "]}}",
    "many keys that nobody knows": '{"pipeline": {'
    + ",".join(f'"minConfidenc{one}": 0' for one in range(19_000))
    + "}}",
    "more values than any pipeline has": '{"pipeline": {"branches": [' + ",".join(["0"] * 2_000_000) + "]}}",
    "long keys": '{"pipeline": {' + ",".join(f'"{"k" * 20_000}{one}": 0' for one in range(200)) + "}}",
    "long words": '{"pipeline": {"modelType": "' + "detectio" * 500_000 + '"}}',
    "a number of a million digits": '{"pipeline": {"minConfidence": ' + "9" * 1_000_000 + "}}",
    "deep": "[" * 2_000_000,
    "deep and closed": '{"a":' * 600_000 + "1" + "}" * 600_000,
    "too large": " " * (5 << 20) + "{}",
}


@pytest.mark.parametrize("name", WORST)
@pytest.mark.parametrize("head", ["", '"schemaVersion": 1, '])
def test_the_worst_pipeline_files_are_refused_at_once(tmp_path: Path, name: str, head: str) -> None:
    content = WORST[name].replace("{", "{" + head, 1).encode()
    with judged(tmp_path) as (inside, run):
        assert not run(partial(_parse, content, inside))
