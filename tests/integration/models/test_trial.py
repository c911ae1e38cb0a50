"""Models that mean harm, tried in real child processes."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from support.hostile_models import endless_loop, repetition_bomb, stolen_weights, weights_bomb
from support.loading import model_config, runtime
from support.tiny_models import tiny_classifier, tiny_detector
from support.waiting import wait_until_sync

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.model_manager import ModelManager
from detector_worker.models.runtimes import trial
from detector_worker.models.runtimes.confined_child import _answers, run_confined
from detector_worker.models.runtimes.trial import Candidate, ModelTrial, TrialLimits

MIB = 1 << 20
Runtime = Literal["openvino", "onnxruntime"]
RUNTIMES: tuple[Runtime, ...] = ("openvino", "onnxruntime")


def new_trial(
    kept_dir: Path, runtime: Runtime = "openvino", *, memory_mb: int = 256, seconds: float = 30
) -> ModelTrial:
    return ModelTrial(
        kept_dir,
        runtime_identity=f"{runtime} of this test",
        runtime_name=runtime,
        device="cpu",
        threads=2,
        requests=2,
        limits=TrialLimits(memory_mb * MIB, seconds),
    )


def candidate(path: Path, content: bytes | None = None) -> Candidate:
    if content is not None:
        path.write_bytes(content)
    return Candidate(path, f"hash of {path.name}", (64, 64))


def children() -> list[psutil.Process]:
    """Trials under way and what is left of them; zombies count."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() == psutil.STATUS_ZOMBIE or "trial_child" in " ".join(child.cmdline()):
                found.append(child)
    return found


def is_running(mark: str) -> bool:
    return any(mark in " ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "temporary").mkdir(mode=0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert children() == []
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_was_found_is_kept_for_every_process(tmp_path: Path, runtime: Runtime) -> None:
    models = [candidate(tmp_path / "a.onnx", tiny_detector()), candidate(tmp_path / "b.onnx", tiny_classifier())]

    found = new_trial(tmp_path / "kept", runtime).admit(models)
    for model in models:
        model.path.unlink()  # so that whoever tried it again would fail
    again = new_trial(tmp_path / "kept", runtime).admit(models)

    assert again == found
    assert found.keys() == {"hash of a.onnx", "hash of b.onnx"}
    assert all(0 < memory_bytes < 64 * MIB for memory_bytes in found.values())


def test_what_another_runtime_found_says_nothing(tmp_path: Path) -> None:
    model = candidate(tmp_path / "a.onnx", tiny_classifier())
    new_trial(tmp_path / "kept").admit([model])
    model.path.unlink()

    with pytest.raises(ModelLoadError, match=r"could not be read.*\[model a.onnx\]"):
        new_trial(tmp_path / "kept", "onnxruntime").admit([model])


def test_garbage_among_the_kept_counts_as_nothing(tmp_path: Path) -> None:
    model, tried = candidate(tmp_path / "a.onnx", tiny_classifier()), new_trial(tmp_path / "kept")
    tried.admit([model])
    [kept] = (tmp_path / "kept").iterdir()
    good = kept.read_bytes()
    assert tried._known([model])

    negative = good.replace(b'_bytes": ', b'_bytes": -')
    for garbage in (b"", b"{}", b"[" * 100_000, b'{"memory_bytes": 1}', b"\xff\x00", good[:-1], negative):
        kept.write_bytes(garbage)
        assert tried._known([model]) == {}, garbage[:40]
    assert tried.admit([model])["hash of a.onnx"] > 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_wants_too_much_memory_never_gets_it(tmp_path: Path, runtime: Runtime) -> None:
    model = candidate(tmp_path / "bomb.onnx", weights_bomb())
    assert model.path.stat().st_size < 200
    peak_bytes = 0
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(new_trial(tmp_path / "kept", runtime).admit, [model])
        while not trying.done():
            for child in children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    peak_bytes = max(peak_bytes, child.memory_info().rss)
            time.sleep(0.005)

        with pytest.raises(ModelLoadError, match=r"needs more than 256 MiB \[model bomb.onnx\]"):
            trying.result()
    assert 20 * MIB < peak_bytes < (256 + 300) * MIB


def test_a_layer_without_bounds_is_refused_by_the_reader(tmp_path: Path) -> None:
    model = candidate(tmp_path / "bomb.onnx", repetition_bomb())

    with pytest.raises(ModelLoadError, match=r"layers that need more memory.*\[model bomb.onnx\]. Export it"):
        new_trial(tmp_path / "kept").admit([model])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_without_end_is_ended_in_time(tmp_path: Path, runtime: Runtime) -> None:
    model = candidate(tmp_path / "loop.onnx", endless_loop())
    start_s = time.monotonic()

    with pytest.raises(ModelLoadError, match=r"took longer than 1.5 s.*\[model loop.onnx\]"):
        new_trial(tmp_path / "kept", runtime, seconds=1.5).admit([model])
    assert 1.5 <= time.monotonic() - start_s < 2.5


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_names_the_model(tmp_path: Path, number: signal.Signals) -> None:
    models = [candidate(tmp_path / "good.onnx", tiny_classifier()), candidate(tmp_path / "loop.onnx", endless_loop())]
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(new_trial(tmp_path / "kept").admit, models)
        wait_until_sync(lambda: any(one.stat().st_size for one in tmp_path.glob("temporary/*/answers")), timeout_s=20)
        [first] = children()
        first.send_signal(number)  # while it is in the loop
        wait_until_sync(lambda: [one for one in children() if one != first], timeout_s=20)
        children()[-1].send_signal(number)

        with pytest.raises(ModelLoadError, match=rf"crashed the runtime \(signal {number:d}\) \[model loop.onnx\]"):
            trying.result()
    assert len(list((tmp_path / "kept").iterdir())) == 1  # the good one


def test_weights_elsewhere_are_refused_with_the_readers_own_words(tmp_path: Path) -> None:
    model = candidate(stolen_weights(tmp_path / "m.onnx"))

    with pytest.raises(ModelLoadError, match="outside its file") as refused:
        new_trial(tmp_path / "kept").admit([model])
    assert refused.value.where == "model m.onnx"
    assert "external_data=False" in refused.value.mend


async def test_many_who_want_one_bomb_cause_one_explosion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    def counted(*args: Any, **rest: Any) -> Any:
        runs.append("run")
        return run_confined(*args, **rest)

    monkeypatch.setattr(trial, "run_confined", counted)
    (tmp_path / "bomb.onnx").write_bytes(weights_bomb())
    manager = ModelManager(runtime(), memory_budget_bytes=1 << 30, trial=new_trial(tmp_path / "kept"))

    async def ask() -> str:
        with pytest.raises(ModelLoadError) as refused:
            await manager.load_model(model_config(tmp_path / "bomb.onnx"))
        return str(refused.value)

    assert len(set(await asyncio.gather(*(ask() for _ in range(50))))) == 1
    assert runs == ["run"]

    monkeypatch.setattr(trial, "_FAILURES_LAST_S", 0.0)
    await ask()
    assert runs == ["run", "run"]


async def test_one_that_takes_long_keeps_no_other_waiting(tmp_path: Path) -> None:
    (tmp_path / "endless.onnx").write_bytes(endless_loop())
    (tmp_path / "sound.onnx").write_bytes(tiny_detector())
    manager = ModelManager(runtime(), memory_budget_bytes=1 << 30, trial=new_trial(tmp_path / "kept", seconds=5))
    endless = asyncio.create_task(manager.load_model(model_config(tmp_path / "endless.onnx")))
    await asyncio.sleep(0.5)

    assert (await manager.load_model(model_config(tmp_path / "sound.onnx"))).shared.memory_bytes > 0

    assert not endless.done()
    with pytest.raises(ModelLoadError, match="longer than 5 s"):
        await endless


async def test_it_works_beside_an_event_loop(tmp_path: Path) -> None:
    model = candidate(tmp_path / "a.onnx", tiny_classifier())

    assert await asyncio.to_thread(new_trial(tmp_path / "kept").admit, [model])


def test_a_machine_that_cannot_start_a_child_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = candidate(tmp_path / "a.onnx", tiny_classifier())
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(tempfile, "tempdir", str(tmp_path / "absent"))

        with pytest.raises(ModelLoadError, match=r"could not be tried.*No such file"):
            new_trial(tmp_path / "kept").admit([model])


def test_closing_ends_a_trial_under_way(tmp_path: Path) -> None:
    tried, model = new_trial(tmp_path / "kept"), candidate(tmp_path / "loop.onnx", endless_loop())
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(tried.admit, [model])
        wait_until_sync(children)
        tried.close()

        with pytest.raises(ModelLoadError, match="stopping"):
            trying.result(timeout=2)


DOOMED = """
import signal, sys
from pathlib import Path
from detector_worker.models.runtimes.trial import *
signal.signal(signal.SIGINT, signal.SIG_IGN)
limits = TrialLimits(1 << 28, 60)
tried = ModelTrial(Path(sys.argv[1]) / "kept", runtime_identity="r", runtime_name="openvino", device="cpu", threads=1,
    requests=1, limits=limits)
print(tried.admit([Candidate(Path(sys.argv[1]) / sys.argv[2], sys.argv[2], (64, 64))]))
"""


def test_whoever_is_killed_leaves_no_child(tmp_path: Path) -> None:
    candidate(tmp_path / "loop.onnx", endless_loop())
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "elsewhere")}
    with subprocess.Popen([sys.executable, "-c", DOOMED, str(tmp_path), "loop.onnx"], env=environment) as parent:
        wait_until_sync(lambda: [one for one in children() if one.cpu_times().user > 0.3], timeout_s=20)
        [child] = children()
        parent.kill()

    wait_until_sync(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    with contextlib.suppress(psutil.NoSuchProcess):
        child.wait(5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
def test_an_ordinary_user_can_do_it(tmp_path: Path) -> None:
    if not all(folder.stat().st_mode & 0o001 for folder in Path(sys.executable).resolve().parents):
        pytest.skip("others cannot reach this interpreter")
    candidate(tmp_path / "a.onnx", tiny_classifier())
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o777)
    command = [sys.executable, "-c", DOOMED, str(tmp_path), "a.onnx"]

    done = subprocess.run(
        command, cwd="/", env={"TMPDIR": str(tmp_path)}, user=65534, check=True, capture_output=True, timeout=30
    )

    assert done.stdout.startswith(b"{'a.onnx': ")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere not all of it can be taken away")
def test_the_child_has_nothing_to_do_harm_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "canary")
    (tmp_path / "run").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server, (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        os.set_inheritable(server.fileno(), True)
        job = {"port": server.getsockname()[1], "bytes": 600 * MIB, "leaves": True}
        limits = TrialLimits(256 * MIB, 20)
        ending = run_confined("support.confined_probe", job, tmp_path / "run", limits=limits)
    told = {name: value for answer in ending.answers for name, value in answer.items()}

    assert ending.fault is None
    assert "DATABASE_PASSWORD" not in told["variables"]
    assert len(told["variables"].split()) <= 7
    assert "secret" not in told["descriptors"]
    assert "socket" not in told["descriptors"]
    assert told["room"] == ""
    assert int(told["capabilities"], 16) & ~0x4 == 0
    assert told["privileges"] == "1"
    assert told["large_file"] == "OSError"
    assert told["memory"] == "MemoryError"
    assert told["network"] == "OSError"
    if os.geteuid() == 0:
        assert told["parent"] == "PermissionError"
    wait_until_sync(lambda: not is_running("left behind"))  # it was killed, but may not have noticed yet


def test_memory_is_bounded_too_where_the_system_does_not_bound_it(tmp_path: Path) -> None:
    job, limits = {"port": 1, "bytes": 3000 * MIB, "leaves": False}, TrialLimits(64 * MIB, 20)

    ending = run_confined("support.confined_probe", job, tmp_path, limits=limits, bound_addresses=False)

    assert ending.fault == "memory"


@pytest.mark.parametrize("said", [b"\xff\n", b"[" * 100_000, b'{"a": [1]}\n', b'{"a": 1.5}', b'"text"\n'])
def test_what_is_no_answer_is_none(tmp_path: Path, said: bytes) -> None:
    (tmp_path / "answers").write_bytes(b'{"what": "two\\nlines\\u001b[31m"}\n' + said + b"\n")

    assert _answers(tmp_path / "answers") == [{"what": "two lines [31m"}]
