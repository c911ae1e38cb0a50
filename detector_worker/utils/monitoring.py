"""How the machine and this process are doing. Every figure is read when it is asked for."""

import logging
import time
from pathlib import Path
from typing import TypedDict

import psutil
import pynvml

__all__ = ["NetworkIo", "ProcessMetrics", "SystemMetrics", "SystemMonitor"]

logger = logging.getLogger(__name__)


class NetworkIo(TypedDict):
    """Bytes since the machine's start."""

    bytes_sent: int
    bytes_recv: int


class SystemMetrics(TypedDict):
    """Of the machine; ``timestamp`` is seconds since 1970, UTC."""

    cpu_percent: float
    memory_percent: float
    disk_percent: float
    network_io: NetworkIo
    timestamp: float


class ProcessMetrics(TypedDict):
    """Of this process; ``timestamp`` is seconds since 1970, UTC."""

    pid: int
    cpu_percent: float
    memory_mb: float
    threads: int
    open_files: int
    connections: int
    timestamp: float


class SystemMonitor:
    """Reads the figures. May block for some milliseconds: call it in a thread. Thread-safe."""

    def __init__(self, disk: Path) -> None:
        """Watch the disk on which ``disk``, an existing folder, lies."""
        self._disk = disk
        self._process = psutil.Process()
        psutil.cpu_percent()  # the first call of both has nothing to compare with
        self._process.cpu_percent()
        self._gpus = _find_gpus()

    def get_system_metrics(self) -> SystemMetrics:
        """Return the machine's figures; CPU since the last call, over all cores."""
        network = psutil.net_io_counters()  # None where the system tells nothing
        return {
            "cpu_percent": psutil.cpu_percent(),
            "memory_percent": psutil.virtual_memory().percent,
            "disk_percent": psutil.disk_usage(str(self._disk)).percent,
            "network_io": {
                "bytes_sent": network.bytes_sent if network else 0,
                "bytes_recv": network.bytes_recv if network else 0,
            },
            "timestamp": time.time(),
        }

    def get_process_metrics(self) -> ProcessMetrics:
        """Return this process's figures; 100 percent is one core."""
        with self._process.oneshot():
            return {
                "pid": self._process.pid,
                "cpu_percent": self._process.cpu_percent(),
                "memory_mb": self._process.memory_info().rss / 2**20,
                "threads": self._process.num_threads(),
                "open_files": len(self._process.open_files()),
                "connections": len(self._process.net_connections()),
                "timestamp": time.time(),
            }

    def get_gpu_metrics(self) -> tuple[float, float] | None:
        """Return the busiest NVIDIA GPU's load and memory in use, percent; None without one."""
        figures = []
        for gpu in self._gpus:
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                figures.append((float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu), 100 * memory.used / memory.total))
            except pynvml.NVMLError as exc:
                logger.debug("A GPU does not tell its figures: %s", exc)
        return max(figures, default=None)


def _find_gpus() -> list[object]:
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no driver, or no GPU
        return []
