"""One pipe between two of our processes: each end calls methods of the other's object, and may tell without waiting."""

import asyncio
import contextlib
import pickle
import queue
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from detector_worker.core.exceptions import DetectorWorkerError, ServiceError

__all__ = ["Channel"]

P = ParamSpec("P")
Result = TypeVar("Result")
_MAX_OUTGOING: Final = 20_000
_LAST_WORD_S: Final = 1.0
_END: Final = None
"""Sent last, since closing a pipe under a blocked reader would not wake that reader."""


@dataclass(frozen=True, slots=True)
class _Call:
    number: int | None
    """None: nobody waits for an answer."""
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Reply:
    number: int
    value: Any
    error: DetectorWorkerError | None


class Channel:
    """One end of a pipe. Used on one event loop; owns a reading and a writing thread.

    The threads keep the loop free, whatever the peer does: one that does not read any more fills the queue, and a
    full queue closes the channel, since such a peer is as good as dead. What comes in is for the public methods of
    ``target``: coroutine functions for `call`, plain ones that do not block for `tell`.
    """

    def __init__(
        self, connection: "Connection[Any, Any]", *, name: str, target: object, on_closed: Callable[[], None]
    ) -> None:
        self._connection, self._name, self._target, self._on_closed = connection, name, target, on_closed
        self._outgoing: queue.Queue[_Call | _Reply | None] = queue.Queue(_MAX_OUTGOING)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._next_number = 0
        self._closed = False

    def open(self) -> None:
        """Start the threads; on the loop that ``target`` lives on."""
        self._loop = asyncio.get_running_loop()
        self._writer = threading.Thread(target=self._write, name=f"{self._name}: writing", daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, name=f"{self._name}: reading", daemon=True).start()

    async def call(
        self, method: Callable[Concatenate[Any, P], Awaitable[Result]], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """Call a method of the peer's object, named by its function, such as ``Group.stop_lane``.

        Raises:
            DetectorWorkerError: What the peer raised, or `ServiceError` where the peer is gone.
        """
        self._next_number += 1
        number = self._next_number
        future: asyncio.Future[Result] = self._loop.create_future()
        self._waiting[number] = future
        try:
            self._send(_Call(number, method.__name__, args, kwargs))
            return await future
        finally:
            del self._waiting[number]

    def tell(self, method: Callable[Concatenate[Any, P], None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a method without an answer; nothing happens once the channel is closed. Thread-safe."""
        with contextlib.suppress(ServiceError):
            self._send(_Call(None, method.__name__, args, kwargs))

    def close(self) -> None:
        """Close at once; calls under way fail. Idempotent; on the loop's thread."""
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

    def _send(self, item: _Call | _Reply) -> None:
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
            self._writer.join(_LAST_WORD_S)  # else it might write to whatever has the descriptor's number next
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

    def _receive(self, item: _Call | _Reply) -> None:
        if isinstance(item, _Reply):
            future = self._waiting.get(item.number)
            if future is not None and not future.done():
                future.set_result(item.value) if item.error is None else future.set_exception(item.error)
        elif item.number is None:
            getattr(self._target, item.method)(*item.args, **item.kwargs)
        else:
            task = self._loop.create_task(self._answer(item, item.number), name=f"{self._name}: {item.method}")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, call: _Call, number: int) -> None:
        value, error = None, None
        try:
            value = await getattr(self._target, call.method)(*call.args, **call.kwargs)
        except DetectorWorkerError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 - the peer waits: a bug here must reach it as an answer
            what = f"{call.method}: {type(exc).__name__}: {exc}"
            error = ServiceError(what, where=self._name, mend="This is a bug of the worker: please report it.")
        with contextlib.suppress(ServiceError):
            self._send(_Reply(number, value, error))
