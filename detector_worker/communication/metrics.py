"""The read model as Prometheus metrics, made at the moment they are asked for."""

import time
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric

from detector_worker.core.entities import StreamState
from detector_worker.core.singleton_managers import (
    CacheStateManager,
    CameraConnection,
    CameraStateManager,
    ModelCacheState,
    PipelineStateManager,
    QueueState,
    ServiceStateManager,
    SpoolState,
    StreamStateManager,
)
from detector_worker.storage.session_cache import CacheStats, SessionCacheManager

__all__ = ["METRICS_TYPE", "Metrics"]

METRICS_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_SUBSCRIPTION: Final = ("subscription", "camera")


class Metrics:
    """All figures of this worker; a camera's address is in none of them."""

    def __init__(
        self,
        *,
        streams: StreamStateManager,
        cameras: CameraStateManager,
        pipelines: PipelineStateManager,
        queues: CacheStateManager,
        services: ServiceStateManager,
        caches: SessionCacheManager,
    ) -> None:
        self._streams, self._cameras, self._pipelines = streams, cameras, pipelines
        self._queues, self._services, self._caches = queues, services, caches
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield each family of figures; what the registry calls."""
        yield from self._of_streams()
        yield from _of_cameras(list(self._cameras.snapshot().values()))
        yield from self._of_the_rest()
        yield from _of_caches(self._caches.stats())

    def _of_streams(self) -> Iterator[Metric]:
        states = GaugeMetricFamily("detector_worker_camera_state", "1 at its state.", None, ("camera", "state"))
        errors = GaugeMetricFamily("detector_worker_camera_error", "1 at its present error.", None, ("camera", "class"))
        warnings = GaugeMetricFamily("detector_worker_camera_warning", "1 at a warning.", None, ("camera", "warning"))
        for camera_id, status in self._streams.snapshot().items():
            for state in StreamState:
                states.add_metric((camera_id, state), float(status.state is state))
            if status.error_class is not None:
                errors.add_metric((camera_id, status.error_class), 1.0)
            for warning in status.warnings:
                warnings.add_metric((camera_id, warning), 1.0)
        yield from (states, errors, warnings)

    def _of_the_rest(self) -> Iterator[Metric]:
        runs = CounterMetricFamily("detector_worker_pipeline_runs", "Finished runs.", None, ("subscription", "status"))
        for subscription_id, one in self._pipelines.snapshot().items():
            runs.add_metric((subscription_id, "completed"), one.completed)
            runs.add_metric((subscription_id, "partial"), one.partial)
            runs.add_metric((subscription_id, "failed"), one.failed)
        yield from _of_queues(self._queues.snapshot())
        yield from _of_spool(self._queues.spool)
        up = GaugeMetricFamily("detector_worker_service_up", "1 where a part works.", None, ("service",))
        stuck = GaugeMetricFamily("detector_worker_stuck_threads", "Lost in a camera's library.", None, ("service",))
        services = self._services.snapshot()
        for name, service in services.items():
            up.add_metric((name,), float(service.state == "ok"))
            stuck.add_metric((name,), service.stuck_threads)
        yield from (runs, up, stuck)
        yield from _of_models({name: one.model_cache for name, one in services.items() if one.model_cache is not None})


def _of_queues(queues: Mapping[str, QueueState]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("detector_worker_queue", "What waits in the spool.", None, ("sink", "kind"))
    up = GaugeMetricFamily("detector_worker_sink_up", "1 where deliveries go on.", None, ("sink",))
    size = GaugeMetricFamily("detector_worker_queue_bytes", "What waits in the spool.", None, ("sink",))
    oldest = GaugeMetricFamily(
        "detector_worker_queue_oldest_seconds", "Age of what has waited longest.", None, ("sink",)
    )
    delivered = CounterMetricFamily("detector_worker_delivered", "Entries since the start.", None, ("sink",))
    for sink, queue in queues.items():
        kinds = ("records", "images", "messages", "dead_letters")
        for kind in kinds:
            waiting.add_metric((sink, kind), getattr(queue, kind))
        up.add_metric((sink,), float(queue.ok))
        size.add_metric((sink,), queue.size_bytes)
        delivered.add_metric((sink,), queue.delivered)
        age_s = 0.0 if queue.oldest_at is None else max(0.0, time.time() - queue.oldest_at)
        oldest.add_metric((sink,), age_s)
    yield from (waiting, up, size, oldest, delivered)


def _of_spool(spool: SpoolState | None) -> Iterator[Metric]:
    if spool is None:
        return
    for name, value in (("bytes", spool.size_bytes), ("quota_bytes", spool.quota_bytes)):
        yield GaugeMetricFamily(f"detector_worker_spool_{name}", "Of all entries together.", value)
    for name, value in (("accepted", spool.accepted), ("refused", spool.refused)):
        yield CounterMetricFamily(f"detector_worker_spool_{name}", "Entries since the start.", value)
    lost = CounterMetricFamily("detector_worker_spool_lost", "Entries since the file was made.", None, ("reason",))
    for reason in ("dropped_pictures", "dropped_records", "expired", "removed"):
        lost.add_metric((reason,), spool.lost.get(reason, 0))
    yield lost


def _of_models(caches: Mapping[str, ModelCacheState]) -> Iterator[Metric]:
    loaded = GaugeMetricFamily("detector_worker_models", "Networks in memory.", None, ("service", "state"))
    memory = GaugeMetricFamily("detector_worker_models_memory_bytes", "What networks take.", None, ("service",))
    events = CounterMetricFamily("detector_worker_model_events", "Since the start.", None, ("service", "event"))
    for name, cache in caches.items():
        loaded.add_metric((name, "in use"), cache.in_use)
        loaded.add_metric((name, "kept"), cache.models - cache.in_use)
        memory.add_metric((name,), cache.memory_bytes)
        for event, count in (("load", cache.loads), ("hit", cache.hits), ("eviction", cache.evictions)):
            events.add_metric((name, event), count)
    yield from (loaded, memory, events)


def _of_caches(caches: Mapping[str, CacheStats]) -> Iterator[Metric]:
    entries = GaugeMetricFamily("detector_worker_cache_entries", "What is kept in memory.", None, ("cache",))
    size = GaugeMetricFamily("detector_worker_cache_bytes", "What that takes.", None, ("cache",))
    events = CounterMetricFamily("detector_worker_cache_events", "Since the start.", None, ("cache", "event"))
    for name, stats in caches.items():
        entries.add_metric((name,), stats.entries)
        size.add_metric((name,), stats.size_bytes)
        counts = {"hit": stats.hits, "miss": stats.misses, "eviction": stats.evictions}
        for event, count in (counts | {"expiration": stats.expirations, "refusal": stats.refusals}).items():
            events.add_metric((name, event), count)
    yield from (entries, size, events)


def _of_cameras(cameras: list[CameraConnection]) -> Iterator[Metric]:
    rates = GaugeMetricFamily(
        "detector_worker_frames_per_second", "Of the last seconds.", None, (*_SUBSCRIPTION, "kind")
    )
    latency = GaugeMetricFamily(
        "detector_worker_latency_seconds", "From capture to analysed.", None, (*_SUBSCRIPTION, "quantile")
    )
    errors = CounterMetricFamily("detector_worker_stream_errors", "Lost or failed connections.", None, _SUBSCRIPTION)
    reconnects = CounterMetricFamily("detector_worker_stream_reconnects", "Times it came back.", None, _SUBSCRIPTION)
    damaged = CounterMetricFamily("detector_worker_damaged_frames", "Withheld as damaged.", None, _SUBSCRIPTION)
    for one in cameras:
        labels = (one.subscription_id, one.camera_id)
        kinds = {"in": one.fps_in, "analysed": one.fps_analysed, "dropped": one.fps_dropped, "still": one.fps_still}
        for kind, rate in kinds.items():
            rates.add_metric((*labels, kind), rate)
        for quantile, latency_ms in (("0.5", one.latency_p50_ms), ("0.95", one.latency_p95_ms)):
            if latency_ms is not None:
                latency.add_metric((*labels, quantile), latency_ms / 1000)
        errors.add_metric(labels, one.errors)
        reconnects.add_metric(labels, one.reconnects)
        damaged.add_metric(labels, one.damaged)
    yield from (rates, latency, errors, reconnects, damaged)
