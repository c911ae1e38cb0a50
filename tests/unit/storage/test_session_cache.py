import pytest
from support.sessions import HandClock

from detector_worker.core.entities import BoundingBox, DetectionResult, FieldValue, PipelineResult
from detector_worker.storage.session_cache import SessionCache, SessionCacheManager


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


async def test_the_least_recently_used_goes_first(clock: HandClock) -> None:
    cache = SessionCache(max_entries=2, max_bytes=10_000, ttl_s=60, clock=clock)
    await cache.put("a", 1)
    await cache.put("b", 2)
    await cache.get("a")

    await cache.put("c", 3)

    assert [await cache.get(key) for key in "abc"] == [1, None, 3]
    assert (await cache.get_stats()).evictions == 1


async def test_bytes_are_bounded_and_given_back(clock: HandClock) -> None:
    cache = SessionCache(max_entries=1_000, max_bytes=10_000, ttl_s=60, clock=clock)
    for number in range(50):
        await cache.put(f"key {number}", "x" * 1_000)
        assert (await cache.get_stats()).size_bytes <= 10_000
    full = await cache.get_stats()

    for number in range(50):
        await cache.remove(f"key {number}")

    assert 5 <= full.entries < 10
    assert full.evictions == 50 - full.entries
    assert (await cache.get_stats()).size_bytes == 0


async def test_a_value_larger_than_the_cache_evicts_nothing_else(clock: HandClock) -> None:
    cache = SessionCache(max_entries=10, max_bytes=5_000, ttl_s=60, clock=clock)
    await cache.put("small", 1)
    await cache.put("grown", 1)

    assert not await cache.put("grown", "x" * 6_000)

    assert await cache.get("small") == 1
    assert await cache.get("grown") is None  # the old value would be a lie
    assert (await cache.get_stats()).refusals == 1


async def test_a_value_lives_for_its_time(clock: HandClock) -> None:
    cache = SessionCache(max_entries=10, max_bytes=10_000, ttl_s=60, clock=clock)
    await cache.put("a", 1)
    clock.now_s += 59
    assert await cache.get("a") == 1
    clock.now_s += 1
    assert await cache.get("a") is None

    stats = await cache.get_stats()

    assert (stats.hits, stats.misses, stats.expirations, stats.entries) == (1, 1, 1, 0)


async def test_what_nobody_asks_for_is_cleaned_up(clock: HandClock) -> None:
    cache = SessionCache(max_entries=10, max_bytes=10_000, ttl_s=60, clock=clock)
    await cache.put("a", 1)
    clock.now_s += 30
    await cache.put("b", 2)
    clock.now_s += 30

    assert await cache.cleanup_expired() == 1

    assert (await cache.get_stats()).entries == 1


async def test_nobody_can_change_what_is_cached_from_outside(clock: HandClock) -> None:
    cache = SessionCache(max_entries=10, max_bytes=10_000, ttl_s=60, clock=clock)
    mine: dict[str, FieldValue] = {"list": [1]}
    await cache.put("a", mine)
    mine["list"] = [2]

    assert await cache.get("a") == {"list": [1]}


async def test_a_session_is_merged_one_level_deep_and_null_deletes(clock: HandClock) -> None:
    manager = SessionCacheManager(max_entries=10, max_bytes=30_000, ttl_s=60, clock=clock)
    await manager.create_session("s", {"keep": 1, "drop": 2, "deep": {"old": 1}})

    merged = await manager.update_session("s", {"drop": None, "deep": {"new": 2}, "more": 3})

    assert merged == {"keep": 1, "deep": {"new": 2}, "more": 3} == await manager.session("s")
    assert await manager.update_session("unknown", {"a": 1}) is None
    assert await manager.session("unknown") is None


async def test_the_latest_detections_and_results_are_kept(clock: HandClock) -> None:
    manager = SessionCacheManager(max_entries=10, max_bytes=30_000, ttl_s=60, clock=clock)
    detection = DetectionResult("car", 0.5, BoundingBox(1, 2, 3, 4), track_id=7)
    await manager.cache_detection("gate", [])
    await manager.cache_detection("gate", [detection])
    await manager.cache_pipeline_result("s", PipelineResult("completed", (detection,), {"b": {"brand": "x"}}, {"f": 1}))

    latest, result = await manager.latest_detection("gate"), await manager.pipeline_result("s")

    assert isinstance(latest, list)
    assert isinstance(latest[0], dict)
    assert latest[0]["bounding_box"] == {"x1": 1, "y1": 2, "x2": 3, "y2": 4}
    assert isinstance(result, dict)
    assert (result["status"], result["fields"]) == ("completed", {"f": 1})
