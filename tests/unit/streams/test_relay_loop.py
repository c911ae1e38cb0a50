import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from threading import Event

import pytest
from support.waiting import wait_until_sync

from detector_worker.streams.relay_loop import RelayLoop


@pytest.fixture
def loop() -> Iterator[RelayLoop]:
    loop = RelayLoop("relay-under-test")
    yield loop
    loop.stop()


class _Faulty:
    """Fails at everything, as a link with a bug would."""

    def __init__(self, loop: RelayLoop) -> None:
        self.ours, self.far = socket.socketpair()
        self.far.settimeout(5)
        self.calls = 0
        self._loop = loop
        loop.post(self, self._begin)

    def _begin(self) -> None:
        self._loop.attach(self)
        self._loop.watch(self.ours, 1, self)

    def ready(self, _sock: socket.socket, _events: int) -> None:
        self.calls += 1
        raise RuntimeError("a bug in ready")

    def drop(self) -> None:
        self.calls += 1
        raise RuntimeError("a bug in drop")

    def close(self) -> None:
        self.ours.close()
        self.far.close()


def _works(loop: RelayLoop) -> bool:
    answered = Event()
    loop.post(_Faulty.__new__(_Faulty), answered.set)
    return answered.wait(5)


def test_a_watcher_that_cannot_even_be_dropped_does_not_end_the_thread(loop: RelayLoop) -> None:
    with closing(_Faulty(loop)) as faulty:
        faulty.far.send(b"x")

        with suppress(ConnectionResetError):
            assert faulty.far.recv(1) == b""  # its socket is closed all the same
        assert _works(loop)
        assert faulty.calls == 2


def test_a_late_watcher_that_cannot_be_dropped_does_not_end_the_thread(loop: RelayLoop) -> None:
    with closing(_Faulty(loop)) as faulty:
        loop.post(faulty, lambda: loop.drop_after(faulty, 0.0))

        wait_until_sync(lambda: faulty.calls == 1)
        assert _works(loop)


def test_the_end_reaches_every_watcher_although_one_cannot_be_dropped(loop: RelayLoop) -> None:
    with closing(_Faulty(loop)) as one, closing(_Faulty(loop)) as other:
        assert _works(loop)
        loop.stop()

        assert (one.calls, other.calls) == (1, 1)
