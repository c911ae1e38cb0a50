from concurrent.futures import ThreadPoolExecutor

from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.singleton_managers import (
    ModelState,
    ModelStateManager,
    ServiceState,
    ServiceStateManager,
    StreamStateManager,
)


def test_a_snapshot_stays_what_it_was() -> None:
    models = ModelStateManager()
    models.set("a", ModelState("loading"))
    before = models.snapshot()
    models.set("a", ModelState("ready", 5))
    models.remove("b")

    assert before == {"a": ModelState("loading")}
    assert models.get("a") == ModelState("ready", 5)
    assert models.get("b") is None


def test_subscribers_are_told_of_changes_only_and_until_they_leave() -> None:
    streams, told = StreamStateManager(), list[tuple[str, StreamStatus | None]]()
    leave = streams.subscribe(lambda key, value: told.append((key, value)))
    active = StreamStatus("gate", StreamState.ACTIVE)

    streams.set("gate", active)
    streams.set("gate", StreamStatus("gate", StreamState.ACTIVE))
    streams.remove("gate")
    streams.remove("gate")
    leave()
    streams.set("gate", active)

    assert told == [("gate", active), ("gate", None)]


def test_two_subscriptions_of_one_callback_end_one_by_one() -> None:
    services, told = ServiceStateManager(), list[str]()

    def note(key: str, _: ServiceState | None) -> None:
        told.append(key)

    leave = services.subscribe(note)
    services.subscribe(note)
    leave()
    services.set("spool", ServiceState("ok"))

    assert told == ["spool"]


def test_many_threads_may_report() -> None:
    models = ModelStateManager()

    def report(number: int) -> None:
        for turn in range(200):
            models.set(f"m{number}", ModelState("ready", turn))
            assert models.snapshot()[f"m{number}"].memory_bytes == turn

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(8)))
    assert [state.memory_bytes for state in models.snapshot().values()] == [199] * 8
