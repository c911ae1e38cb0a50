import os
import threading
from pathlib import Path

from detector_worker.utils.monitoring import SystemMonitor


def test_system_metrics_hold_what_the_contract_names(tmp_path: Path) -> None:
    metrics = SystemMonitor(tmp_path).get_system_metrics()

    assert list(metrics) == ["cpu_percent", "memory_percent", "disk_percent", "network_io", "timestamp"]
    assert 0 <= metrics["cpu_percent"] <= 100
    assert 0 < metrics["memory_percent"] < 100
    assert 0 <= metrics["disk_percent"] <= 100


def test_process_metrics_are_this_processs(tmp_path: Path) -> None:
    monitor = SystemMonitor(tmp_path)
    before = monitor.get_process_metrics()
    held = threading.Event()
    thread = threading.Thread(target=held.wait)
    thread.start()
    with (tmp_path / "open").open("w"):
        during = monitor.get_process_metrics()
    held.set()
    thread.join()

    assert list(during) == [
        "pid", "cpu_percent", "memory_mb", "threads", "open_files", "connections", "timestamp",
    ]  # fmt: skip
    assert during["pid"] == os.getpid()
    assert during["memory_mb"] > 10
    assert (during["threads"], during["open_files"]) == (before["threads"] + 1, before["open_files"] + 1)


def test_without_a_gpu_there_are_no_figures(tmp_path: Path) -> None:
    figures = SystemMonitor(tmp_path).get_gpu_metrics()

    assert figures is None or all(0 <= figure <= 100 for figure in figures)
