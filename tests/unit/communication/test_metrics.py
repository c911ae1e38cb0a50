"""What Prometheus reads of the worker."""

import time

from prometheus_client.parser import text_string_to_metric_families
from support.sessions import new_caches

from detector_worker.communication.metrics import Metrics
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.singleton_managers import (
    CacheStateManager,
    CameraConnection,
    CameraStateManager,
    PipelineRuns,
    PipelineStateManager,
    QueueState,
    ServiceState,
    ServiceStateManager,
    SpoolState,
    StreamStateManager,
)


def _values(metrics: Metrics) -> dict[tuple[str, frozenset[str]], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name.removeprefix("detector_worker_"), frozenset(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_everything_in_the_read_model_is_a_figure() -> None:
    streams, cameras, pipelines = StreamStateManager(), CameraStateManager(), PipelineStateManager()
    queues, services = CacheStateManager(), ServiceStateManager()
    streams.set("gate", StreamStatus("gate", StreamState.ERROR, "timeout", warnings=("fallback",)))
    address = "rtsp://***@10.0.0.7/secret-looking"
    cameras.set(
        "desk;gate",
        CameraConnection(
            "desk;gate", "gate", address, "error", fps_in=25.0, latency_p50_ms=40.0, errors=3, reconnects=2, damaged=9
        ),
    )
    pipelines.set("desk;gate", PipelineRuns(0, 5, 1, 2))
    waits = QueueState(ok=False, images=4, messages=2, oldest_at=time.time() - 90, size_bytes=700, delivered=12)
    queues.set("redis", waits)
    queues.spool = SpoolState(700, 4096, accepted=18, refused=1, lost={"expired": 3})
    services.set("group-1", ServiceState("ok", stuck_threads=2))
    metrics = Metrics(
        streams=streams, cameras=cameras, pipelines=pipelines, queues=queues, services=services, caches=new_caches()
    )

    values = _values(metrics)

    assert values["camera_state", frozenset({"gate", "error"})] == 1
    assert values["camera_state", frozenset({"gate", "active"})] == 0
    assert values["camera_error", frozenset({"gate", "timeout"})] == 1
    assert values["camera_warning", frozenset({"gate", "fallback"})] == 1
    camera = {"desk;gate", "gate"}
    assert values["frames_per_second", frozenset(camera | {"in"})] == 25
    assert values["latency_seconds", frozenset(camera | {"0.5"})] == 0.04
    assert values["stream_errors_total", frozenset(camera)] == 3
    assert values["stream_reconnects_total", frozenset(camera)] == 2
    assert values["damaged_frames_total", frozenset(camera)] == 9
    assert values["pipeline_runs_total", frozenset({"desk;gate", "partial"})] == 1
    assert values["queue", frozenset({"redis", "images"})] == 4
    assert values["queue", frozenset({"redis", "messages"})] == 2
    assert values["queue_bytes", frozenset({"redis"})] == 700
    assert 90 <= values["queue_oldest_seconds", frozenset({"redis"})] < 100
    assert values["delivered_total", frozenset({"redis"})] == 12
    assert values["sink_up", frozenset({"redis"})] == 0
    assert values["spool_quota_bytes", frozenset()] == 4096
    assert values["spool_accepted_total", frozenset()] == 18
    assert values["spool_refused_total", frozenset()] == 1
    assert values["spool_lost_total", frozenset({"expired"})] == 3
    assert values["spool_lost_total", frozenset({"dropped_records"})] == 0
    assert values["service_up", frozenset({"group-1"})] == 1
    assert values["stuck_threads", frozenset({"group-1"})] == 2
    assert address not in metrics.text().decode()


def test_a_name_that_holds_quotes_and_newlines_stays_one_label() -> None:
    streams = StreamStateManager()
    streams.set('ga"te\\', StreamStatus('ga"te\\', StreamState.ACTIVE))
    metrics = Metrics(
        streams=streams,
        cameras=CameraStateManager(),
        pipelines=PipelineStateManager(),
        queues=CacheStateManager(),
        services=ServiceStateManager(),
        caches=new_caches(),
    )

    assert _values(metrics)["camera_state", frozenset({'ga"te\\', "active"})] == 1
