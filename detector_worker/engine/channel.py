"""One pipe between two of our processes: requests that are answered, and events that are not, both ways."""

import asyncio
import contextlib
import pickle
import queue
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from detector_worker.core.exceptions import DetectorWorkerError, ServiceError

__all__ = ["Channel"]

_MAX_OUTGOING: Final = 20_000
_END: Final = None
"""Sent last, since closing a pipe under a blocked reader would not wake that reader."""


@dataclass(frozen=True, slots=True)
class _Request:
    number: int
    message: Any


@dataclass(frozen=True, slots=True)
class _Reply:
    number: int
    value: Any
    error: DetectorWorkerError | None


@dataclass(frozen=True, slots=True)
class _Event:
    message: Any


class Channel:
    """One end of a pipe. Used on one event loop; owns a reading and a writing thread.

    The threads keep the loop free, whatever the peer does: one that does not read any more fills the
    queue, and a full queue closes the channel, since such a peer is as good as dead.
    """

    def __init__(
        self,
        connection: "Connection[Any, Any]",
        *,
        name: str,
        answer: Callable[[Any], Awaitable[Any]],
        on_event: Callable[[Any], None],
        on_closed: Callable[[], None],
    ) -> None:
        """Wrap a connection; call `open` on the running loop.

        Args:
            connection: One end of ``multiprocessing.Pipe()``; closed with the channel.
            name: For threads and errors.
            answer: Called for each request of the peer; a `DetectorWorkerError` is raised at the peer.
            on_event: Called for each event of the peer; must not block.
            on_closed: Called once, when the peer is gone or the channel is closed.
        """
        self._connection, self._name = connection, name
        self._answer, self._on_event, self._on_closed = answer, on_event, on_closed
        self._outgoing: queue.Queue[_Request | _Reply | _Event | None] = queue.Queue(_MAX_OUTGOING)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._next_number = 0
        self._closed = False

    def open(self) -> None:
        """Start the threads; must be called on the loop that the callbacks are for."""
        self._loop = asyncio.get_running_loop()
        self._reader = threading.Thread(target=self._read, name=f"{self._name}: reading", daemon=True)
        self._writer = threading.Thread(target=self._write, name=f"{self._name}: writing", daemon=True)
        self._reader.start()
        self._writer.start()

    async def request(self, message: Any) -> Any:
        """Send a request and wait for its answer.

        Raises:
            DetectorWorkerError: What the peer raised, or `ServiceError` where the peer is gone.
        """
        if self._closed:
            raise self._gone()
        self._next_number += 1
        future = self._waiting[self._next_number] = self._loop.create_future()
        number = self._next_number
        try:
            self._send(_Request(number, message))
            return await future
        finally:
            self._waiting.pop(number, None)

    def notify(self, message: Any) -> None:
        """Send an event; silently nothing once the channel is closed. Thread-safe."""
        with contextlib.suppress(ServiceError):
            self._send(_Event(message))

    def close(self) -> None:
        """Close at once; requests under way fail. Idempotent; on the loop's thread."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(queue.Full):
            self._outgoing.put_nowait(_END)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._gone())
        for task in self._answering:
            task.cancel()
        self._on_closed()

    async def close_when_written(self, *, timeout_s: float = 1.0) -> None:
        """Close, and wait until what was sent before is in the pipe."""
        self.close()
        await asyncio.to_thread(self._writer.join, timeout_s)

    def _send(self, item: _Request | _Reply | _Event) -> None:
        if self._closed:
            raise self._gone()
        try:
            self._outgoing.put_nowait(item)
        except queue.Full:
            self._close_from_thread()
            raise self._gone() from None

    def _gone(self) -> ServiceError:
        return ServiceError("The other process is gone", where=self._name, mend="It is started again by itself.")

    def _read(self) -> None:
        try:
            while (item := self._connection.recv()) is not _END:
                self._loop.call_soon_threadsafe(self._receive, item)
        except (EOFError, OSError, RuntimeError, pickle.UnpicklingError):
            pass  # the peer died, even in the middle of a message; RuntimeError: the loop has ended
        finally:
            self._close_from_thread()
            self._connection.close()

    def _write(self) -> None:
        try:
            while (item := self._outgoing.get()) is not _END:
                self._connection.send(item)
            self._connection.send(_END)
        except (OSError, ValueError):
            self._close_from_thread()

    def _close_from_thread(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everything
            self._loop.call_soon_threadsafe(self.close)

    def _receive(self, item: _Request | _Reply | _Event) -> None:
        match item:
            case _Event(message):
                self._on_event(message)
            case _Reply(number, value, error):
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result(value) if error is None else future.set_exception(error)
            case _Request(number, message):
                task = self._loop.create_task(self._reply(number, message), name=f"{self._name}-answer")
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _reply(self, number: int, message: Any) -> None:
        value, error = None, None
        try:
            value = await self._answer(message)
        except DetectorWorkerError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 - the peer waits: a bug here must reach it as an answer
            error = ServiceError(
                f"{type(exc).__name__}: {exc}", where=self._name, mend="This is a bug of the worker: please report it."
            )
        with contextlib.suppress(ServiceError):
            self._send(_Reply(number, value, error))
