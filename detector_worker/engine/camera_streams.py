"""Which streams a subscription reads, and where cameras may be."""

from dataclasses import replace

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.settings import StreamsSettings
from detector_worker.engine.engine import SubscriptionSpec
from detector_worker.streams.stream_config import StreamConfig

__all__ = ["camera_policy", "stream_configs"]


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
