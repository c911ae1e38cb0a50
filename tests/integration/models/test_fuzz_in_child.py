"""Archives of damaged models, tried as the worker tries what it has never seen: in a child, within limits."""

import contextlib
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import psutil
import pytest
from support.crafted_models import crafted_models, intermediate_representation
from support.mutations import mutated_bytes, mutated_zip
from support.tiny_models import tiny_classifier, tiny_detector, tiny_text_reader, zip_bytes

from detector_worker.core.exceptions import DetectorWorkerError
from detector_worker.models.archives.unpacking import ArchiveLimits, unpack_archive
from detector_worker.models.runtimes.trial import Candidate, ModelTrial, TrialLimits

pytestmark = pytest.mark.faults

MIB: Final = 1 << 20
LIMITS: Final = TrialLimits(memory_bytes=256 * MIB, seconds=10)
LIBRARIES_BYTES: Final = 700 * MIB
"""What Python and a runtime take at most before they see a model."""
MAX_GROWTH_BYTES: Final = 60 * MIB
ROUNDS: Final = [
    *(pytest.param(seed, 25, marks=pytest.mark.timeout(600), id=f"200 of them, part {seed + 1}") for seed in range(8)),
    pytest.param(99, 10_000, marks=[pytest.mark.soak, pytest.mark.timeout(12 * 3600)], id="10000 of them"),
]
Runtime = Literal["openvino", "onnxruntime"]
CRAFTED: Final = crafted_models()
HARMLESS: Final = {"doubled", "negative sizes", "opset of the future", "scan over too much", "giant range"}
"""What some runtime takes, within its limits; of the rest nothing may be admitted."""


@pytest.fixture(autouse=True)
def _no_harm_is_done(tmp_path: Path) -> Iterator[None]:
    """No process is left, this one does not grow, no child took more than it may, nothing was written elsewhere."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    process = psutil.Process()
    before_bytes, largest_kib = process.memory_info().rss, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    yield
    left = [child.pid for child in process.children(recursive=True) if "trial_child" in " ".join(_command(child))]
    assert left == []
    assert process.memory_info().rss - before_bytes < MAX_GROWTH_BYTES
    allowed_kib = (LIMITS.memory_bytes + LIBRARIES_BYTES) >> 10
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < max(allowed_kib, largest_kib + 1)
    assert {path.name for path in tmp_path.iterdir()} == {"inside", "secret.bin"}


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def new_trial(folder: Path, runtime: Runtime) -> ModelTrial:
    return ModelTrial(
        folder / "kept",
        runtime_identity="of this test",
        runtime_name=runtime,
        device="cpu",
        threads=1,
        requests=1,
        limits=LIMITS,
    )


def is_admitted(folder: Path, archive: bytes, runtime: Runtime, name: str) -> bool:
    """Unpack an archive and have its models tried; False where that is refused as it should be."""
    path, unpacked = folder / f"{name}.mpta", folder / name
    path.write_bytes(archive)
    started_s = time.monotonic()
    try:
        unpack_archive(path, unpacked, ArchiveLimits(), where=f"archive {name}")
        models = [one for one in unpacked.rglob("*") if one.suffix in {".onnx", ".xml"}]
        new_trial(folder, runtime).admit([Candidate(one, f"{name} {one.name}", (64, 64)) for one in models])
    except DetectorWorkerError as exc:
        told = exc
    else:
        return True
    finally:
        assert time.monotonic() - started_s < LIMITS.seconds + 10
    assert told.mend
    assert "Traceback" not in str(told)
    return False


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_model_is_refused_or_does_no_harm(tmp_path: Path, name: str, runtime: Runtime) -> None:
    admitted = is_admitted(tmp_path / "inside", zip_bytes(CRAFTED[name]), runtime, "crafted")

    assert not admitted or name in HARMLESS


@pytest.mark.parametrize(("seed", "count"), ROUNDS)
def test_archives_of_mutated_models(tmp_path: Path, seed: int, count: int) -> None:
    rng = random.Random(seed)
    sound = [{"model.onnx": content} for content in (tiny_detector(), tiny_classifier(), tiny_text_reader())]
    sound += [intermediate_representation(content["model.onnx"]) for content in sound[:2]]
    admitted = 0
    for number in range(count):
        files = dict(rng.choice(sound))
        name = rng.choice(list(files))
        files[name] = mutated_bytes(rng, files[name], others=tuple(sound[0].values()))
        archive = zip_bytes(files)
        if rng.random() < 0.1:
            archive = mutated_zip(rng, archive)
        runtime: Runtime = "onnxruntime" if name == "model.onnx" and rng.random() < 0.5 else "openvino"
        admitted += is_admitted(tmp_path / "inside", archive, runtime, f"{number}")

    assert admitted < count
