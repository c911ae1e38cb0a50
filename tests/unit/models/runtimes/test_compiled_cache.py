import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_models import squares_image, tiny_detector

from detector_worker.models.runtimes.compiled_cache import CompiledCache
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
from detector_worker.models.runtimes.runtime import Hw, Precision, Preprocessing


def test_a_blob_is_found_again_under_its_key_alone(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path / "c")
    assert cache.load("a") is None

    cache.store("a", b"blob")

    assert cache.load("a") == CompiledCache(tmp_path / "c").load("a") == b"blob"
    assert cache.load("b") is None


@pytest.mark.parametrize("where", [0, 31, 32, 500, 1031, -1])
def test_one_damaged_byte_is_noticed(tmp_path: Path, where: int) -> None:
    cache = CompiledCache(tmp_path)
    cache.store("a", bytes(1000))
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)

    assert cache.load("a") is None


@pytest.mark.parametrize("content", [b"", b"short", bytes(32)])
def test_what_is_cut_off_is_noticed(tmp_path: Path, content: bytes) -> None:
    cache = CompiledCache(tmp_path)
    cache.store("a", b"")
    [path] = tmp_path.iterdir()
    path.write_bytes(content)

    assert cache.load("a") is None


def test_one_keys_file_under_another_name_is_noticed(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path)
    cache.store("a", b"a's")
    [of_a] = tmp_path.iterdir()
    cache.store("b", b"b's")
    [of_b] = set(tmp_path.iterdir()) - {of_a}
    of_a.replace(of_b)

    assert cache.load("b") is None


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, budget_bytes=3 * (1000 + 32))
    for number, key in enumerate("abc"):
        cache.store(key, bytes(1000))
        os.utime(cache._path(key), (number, number))
    cache.load("a")

    cache.store("d", bytes(1000))
    cache.store("too large", bytes(5000))

    assert [key for key in "abcd" if cache.load(key)] == ["a", "c", "d"]


def test_a_folder_that_cannot_be_written_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = CompiledCache(tmp_path / "file" / "c")

    cache.store("a", b"blob")

    assert cache.load("a") is None


def test_many_at_once_see_whole_blobs(tmp_path: Path) -> None:
    cache, seen = CompiledCache(tmp_path), set[bytes | None]()

    def work(number: int) -> None:
        for _ in range(20):
            cache.store("a", bytes([number]) * 10_000)
            seen.add(cache.load("a"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen <= {bytes([number]) * 10_000 for number in range(4)}
    assert len(list(tmp_path.iterdir())) == 1


class Counting(OpenVINORuntime):
    """Counts what is really compiled."""

    compilations = 0

    def _compile(self, *args: Any, **rest: Any) -> Any:
        self.compilations += 1
        return super()._compile(*args, **rest)


def new_runtime(folder: Path) -> Counting:
    return Counting(threads=2, requests=2, cache=CompiledCache(folder))


def answer(
    runtime: OpenVINORuntime, path: Path, *, color: Any = "rgb", hw: Hw = (384, 640), precision: Precision = "f32"
) -> Any:
    compiled = runtime.compile(path, Preprocessing(color, 1 / 255), input_hw=hw, precision=precision)
    return compiled.infer(np.resize(squares_image({(40, 40): "red"}), (*hw, 3)))


def test_the_second_start_compiles_nothing_and_answers_the_same(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_detector(None))
    first, second = new_runtime(tmp_path / "c"), new_runtime(tmp_path / "c")

    answers = [answer(one, path) for one in (first, second)]

    assert (first.compilations, second.compilations) == (1, 0)
    assert answers[0].keys() == answers[1].keys() == {"output0"}
    np.testing.assert_array_equal(answers[0]["output0"], answers[1]["output0"])


def test_whatever_makes_a_difference_is_compiled_apart(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_detector(None))
    answer(new_runtime(tmp_path / "c"), path)
    again = new_runtime(tmp_path / "c")

    answer(again, path, color="bgr")
    answer(again, path, hw=(192, 320))
    answer(again, path, precision="bf16")
    answer(Counting(threads=1, requests=1, cache=CompiledCache(tmp_path / "c")), path)
    path.write_bytes(tiny_detector())
    answer(again, path)

    assert again.compilations == 4
    assert len(list((tmp_path / "c").iterdir())) == 6


@pytest.mark.parametrize("damage", ["garbage", "another runtime's"])
def test_a_damaged_blob_is_compiled_anew_and_replaced(tmp_path: Path, damage: str) -> None:
    path, cache = tmp_path / "m.onnx", CompiledCache(tmp_path / "c")
    path.write_bytes(tiny_detector())
    expected = answer(new_runtime(tmp_path / "c"), path)["output0"]
    [kept] = (tmp_path / "c").iterdir()
    good = kept.read_bytes()
    if damage == "garbage":
        kept.write_bytes(good[: len(good) // 2] + os.urandom(4096) + good[len(good) // 2 + 4096 :])
    else:
        keys: list[str] = []
        listening = new_runtime(tmp_path / "c")
        listening._import = lambda key, properties: keys.append(key)  # type: ignore[method-assign]
        answer(listening, path)
        cache.store(keys[0], b'["output0"]\nof another build')

    runtime = new_runtime(tmp_path / "c")
    np.testing.assert_array_equal(answer(runtime, path)["output0"], expected)
    assert runtime.compilations == 1
    assert answer(new_runtime(tmp_path / "c"), path).keys() == {"output0"}
    third = new_runtime(tmp_path / "c")
    answer(third, path)
    assert third.compilations == 0
