from concurrent.futures import ThreadPoolExecutor

from detector_worker.core.singleton_managers import ModelState, ModelStateManager


def test_a_snapshot_stays_what_it_was() -> None:
    models = ModelStateManager()
    models.set("a", ModelState("loading"))
    before = models.snapshot()
    models.set("a", ModelState("ready", 5))
    models.remove("b")

    assert before == {"a": ModelState("loading")}
    assert models.get("a") == ModelState("ready", 5)
    assert models.get("b") is None


def test_many_threads_may_report() -> None:
    models = ModelStateManager()

    def report(number: int) -> None:
        for turn in range(200):
            models.set(f"m{number}", ModelState("ready", turn))
            assert models.snapshot()[f"m{number}"].memory_bytes == turn

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(8)))
    assert [state.memory_bytes for state in models.snapshot().values()] == [199] * 8
