"""How much a performance test measures."""

from dataclasses import dataclass

__all__ = ["PerformanceConfig"]


@dataclass(frozen=True)
class PerformanceConfig:
    """Rounds that are not counted, and rounds that are."""

    warm_up: int = 5
    measured: int = 100
