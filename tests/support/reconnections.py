"""One camera connected anew many times, in a process that does nothing else: so its memory tells of that alone."""

import asyncio
import multiprocessing
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

import numpy as np
import psutil
from support.cameras import StatusLog
from support.descriptors import open_descriptors

from detector_worker.core.entities import StreamState
from detector_worker.streams.stream_manager import StreamConfig, StreamManager

__all__ = ["Reconnections", "Sample", "reconnect_many_times"]

_SAMPLE_EVERY: Final = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process had after so many reconnections."""

    number: int
    threads: int
    descriptors: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Reconnections:
    """What came out."""

    samples: tuple[Sample, ...]
    took_s: float
    reconnects: int
    errors: int
    left_threads: tuple[str, ...]
    """After the manager was stopped."""

    def growth_bytes(self) -> float:
        """Return the slope of memory, bytes for each reconnection."""
        numbers = np.array([sample.number for sample in self.samples], np.float64)
        memory = np.array([sample.memory_bytes for sample in self.samples], np.float64)
        return float(np.polyfit(numbers, memory, 1)[0])


async def reconnect_many_times(config: StreamConfig, *, times: int, settled_after: int) -> Reconnections:
    """Connect to a camera and ``times`` times anew, each time until it is active; samples of the settled time."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    args = (config, times, settled_after, theirs)
    process = context.Process(target=_run, args=args, name="reconnections", daemon=True)
    await asyncio.to_thread(process.start)
    theirs.close()
    try:
        outcome: Reconnections = await asyncio.to_thread(ours.recv)
        await asyncio.to_thread(process.join)
    finally:
        process.kill()
        ours.close()
    process.join()
    process.close()
    return outcome


def _run(config: StreamConfig, times: int, settled_after: int, pipe: Connection) -> None:
    pipe.send(asyncio.run(_reconnect(config, times, settled_after)))


async def _reconnect(config: StreamConfig, times: int, settled_after: int) -> Reconnections:
    statuses, samples, process = StatusLog(), list[Sample](), psutil.Process()
    manager = StreamManager(notify=statuses)
    stream_id = await manager.create_stream("gate", config, "desk;gate", deliver=lambda _: None)
    await statuses.wait_for(StreamState.ACTIVE)
    began_s = time.monotonic()
    for number in range(1, times + 1):
        await manager.reconnect_stream(stream_id)
        await statuses.wait_for(StreamState.CONNECTING)
        await statuses.wait_for(StreamState.ACTIVE)
        statuses.history.clear()  # it is this test's own
        if number >= settled_after and number % _SAMPLE_EVERY == 0:
            memory_bytes = process.memory_info().rss
            samples.append(Sample(number, threading.active_count(), open_descriptors().total(), memory_bytes))
    took_s, info = time.monotonic() - began_s, manager.get_stream_info("gate")
    await manager.stop_all_streams()
    ours = (threading.current_thread().name, "asyncio_")  # the main thread, and those of asyncio.to_thread
    left = tuple(thread.name for thread in threading.enumerate() if not thread.name.startswith(ours))
    return Reconnections(tuple(samples), took_s, info.reconnects, info.error_count, left)
