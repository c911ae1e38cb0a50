"""What a group makes of its configuration and of a subscription, to build a lane from."""

from dataclasses import replace

import uuid_utils

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.config import Configuration
from detector_worker.core.settings import MIB, StreamsSettings
from detector_worker.detection.visits import VisitTracker
from detector_worker.engine.engine import SubscriptionSpec
from detector_worker.models.archives.unpacking import ArchiveLimits
from detector_worker.models.model_manager import ModelManager
from detector_worker.models.pipeline_config import PipelineConfig
from detector_worker.models.pipeline_loader import PipelineLoader
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
from detector_worker.streams.stream_config import StreamConfig

__all__ = ["camera_policy", "pipeline_loader", "stream_configs", "visit_tracker"]


def camera_policy(streams: StreamsSettings) -> NetworkPolicy:
    """Return where cameras may be, and what is trusted there."""
    return NetworkPolicy(streams.allowed_networks, streams.denied_networks, streams.verify_certificates)


def stream_configs(spec: SubscriptionSpec, streams: StreamsSettings) -> tuple[StreamConfig, StreamConfig | None]:
    """Return the stream that is analysed, and the large one beside it where that is another."""
    config = StreamConfig(
        stream_url=spec.url,
        stream_type="rtsp" if spec.rtsp_url else "http_snapshot",
        target_fps=spec.target_fps or streams.target_fps,
        reconnect_interval=streams.reconnect_interval,
        max_retries=streams.max_retries,
        snapshot_interval_s=spec.snapshot_interval_s,
        transport=spec.options.transport or streams.transport,
        frozen_after_s=spec.options.frozen_after_s,
        fallback_url=spec.snapshot_url if spec.rtsp_url else None,
    )
    if spec.detect_url is None:
        return config, None
    return replace(config, stream_url=spec.detect_url, stream_type="rtsp"), replace(config, fallback_url=None)


def pipeline_loader(configuration: Configuration, threads: int, *, any_path: bool) -> PipelineLoader:
    """Make the loader of a group's archives and models."""
    pipelines = configuration.pipelines
    is_restricted = (configuration.access.tokens or pipelines.allowed_paths) and not any_path
    runtime = OpenVINORuntime(threads=threads, requests=threads)
    return PipelineLoader(
        ModelManager(runtime, memory_budget_bytes=configuration.models.memory_budget_mb * MIB),
        configuration.server.data_dir / "archives",
        limits=ArchiveLimits(archive_bytes=pipelines.max_archive_bytes),
        allowed_paths=pipelines.allowed_paths if is_restricted else None,
        network_policy=NetworkPolicy(pipelines.allowed_networks),
        download_timeout_s=pipelines.download_timeout_seconds,
    )


def visit_tracker(spec: SubscriptionSpec, pipeline: PipelineConfig) -> VisitTracker:
    """Make what follows a subscription's objects."""
    return VisitTracker(
        camera_id=spec.camera_id,
        min_confidence=pipeline.min_confidence,
        stability=pipeline.stability,
        tracking=pipeline.tracking,
        expected_classes=pipeline.expected_classes,
        required_classes=pipeline.required_classes,
        trigger_classes=pipeline.trigger_classes,
        region=spec.crop,
        new_record_id=lambda: str(uuid_utils.uuid7()),
    )
