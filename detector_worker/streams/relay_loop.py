"""One thread that waits for many sockets."""

import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

__all__ = ["RelayLoop", "Watcher"]

_log: Final = logging.getLogger(__name__)
_CHUNK_BYTES: Final = 131_072
_CHECK_EVERY_S: Final = 0.2
_PACE_S: Final = 0.01
"""Between rounds: what has come meanwhile from all cameras costs one waking up, and a third of the CPU."""
_STOP_TIMEOUT_S: Final = 2.0


class Watcher(Protocol):
    """Who has sockets watched. Its methods are called in the loop's thread."""

    def ready(self, sock: socket.socket, events: int) -> None:
        """A socket can be read or written (`selectors.EVENT_READ`, `selectors.EVENT_WRITE`)."""
        ...

    def drop(self) -> None:
        """Let go of everything, at once; may be called again."""
        ...


class RelayLoop:
    """Tells watchers when their sockets are ready. Only `post` and `stop` may be called from other threads.

    A watcher that raises is dropped; the others do not notice.
    """

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self.chunk: Final = memoryview(bytearray(_CHUNK_BYTES))
        """To read into; whoever is called may use it until they return."""
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._posted: deque[tuple[Watcher, Callable[[], None]]] = deque()
        self._watchers: set[Watcher] = set()
        self._deadlines_s: dict[Watcher, float] = {}
        self._in_haste: set[Watcher] = set()
        self._watched: dict[socket.socket, int] = {}
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def post(self, watcher: Watcher, call: Callable[[], None]) -> None:
        """Have something called in the thread; nothing is called any more once it has stopped."""
        self._posted.append((watcher, call))
        self._wake_up()

    def stop(self) -> None:
        """Drop every watcher and end the thread."""
        self._is_stopping = True
        self._wake_up()
        self._thread.join(_STOP_TIMEOUT_S)

    def attach(self, watcher: Watcher) -> None:
        """Take note of a watcher, which is in haste at first; it is dropped at the end at the latest."""
        self._watchers.add(watcher)
        self._in_haste.add(watcher)

    def relax(self, watcher: Watcher) -> None:
        """Say that a watcher can wait for 10 ms from now on: where all can, CPU is saved."""
        self._in_haste.discard(watcher)

    def detach(self, watcher: Watcher) -> None:
        """Forget a watcher, which watches nothing any more."""
        self._watchers.discard(watcher)
        self._in_haste.discard(watcher)
        self._deadlines_s.pop(watcher, None)

    def drop_after(self, watcher: Watcher, seconds: float) -> None:
        """Drop a watcher if it has not gone by then; an earlier deadline stays."""
        self._deadlines_s.setdefault(watcher, time.monotonic() + seconds)

    def watch(self, sock: socket.socket, events: int, watcher: Watcher) -> None:
        """Say what a socket is watched for from now on; 0 for nothing, which is due before it is closed."""
        before = self._watched.get(sock, 0)
        if events == before:
            return
        if not events:
            self._selector.unregister(sock)
            del self._watched[sock]
            return
        if before:
            self._selector.modify(sock, events, watcher)
        else:
            self._selector.register(sock, events, watcher)
        self._watched[sock] = events

    def _run(self) -> None:
        while not self._is_stopping:
            for key, events in self._selector.select(_CHECK_EVERY_S if self._deadlines_s else None):
                if key.fileobj is self._woken:
                    self._take_posted()
                elif key.fileobj in self._watched:  # else another event of this round has closed it
                    try:
                        key.data.ready(key.fileobj, events)
                    except Exception:  # noqa: BLE001 - the watcher's boundary: the others go on
                        self._fail(key.data)
            self._drop_late()
            if not self._in_haste:
                time.sleep(_PACE_S)
        self._take_posted()
        for watcher in tuple(self._watchers):
            self._drop(watcher)
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _wake_up(self) -> None:
        with suppress(OSError):  # full: it will wake anyway; closed: it has stopped
            self._wake.send(b"\0")

    def _take_posted(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        while self._posted:
            watcher, call = self._posted.popleft()
            try:
                call()
            except Exception:  # noqa: BLE001 - as above
                self._fail(watcher)

    def _drop_late(self) -> None:
        if self._deadlines_s:
            now_s = time.monotonic()
            for watcher in [one for one, deadline_s in self._deadlines_s.items() if deadline_s <= now_s]:
                self._drop(watcher)

    def _fail(self, watcher: Watcher) -> None:
        _log.exception("A camera's link was dropped: unexpected error")
        self._drop(watcher)

    def _drop(self, watcher: Watcher) -> None:
        """Drop a watcher; where it fails at that too, its sockets are closed here, or they would be ready for ever."""
        try:
            watcher.drop()
        except Exception:  # noqa: BLE001 - as above
            _log.exception("A camera's link could not be dropped: unexpected error")
            self.detach(watcher)
            for sock in [key.fileobj for key in self._selector.get_map().values() if key.data is watcher]:
                if isinstance(sock, socket.socket):
                    self.watch(sock, 0, watcher)
                    sock.close()
