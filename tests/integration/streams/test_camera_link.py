import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from support.waiting import wait_until_sync

from detector_worker.streams.camera_dialer import DialedCamera
from detector_worker.streams.camera_link import CameraLink, CameraLinks, LinkEnd

_PLAY = b"PLAY rtsp://127.0.0.1/x RTSP/1.0\r\nCSeq: 1\r\n\r\n"
_OK = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"
_MB = 2**20


@pytest.fixture
def links() -> Iterator[CameraLinks]:
    with closing(CameraLinks()) as links:
        yield links


class _Bench:
    """A link between two sockets of the test's own: one is the camera, the other plays FFmpeg."""

    def __init__(self, links: CameraLinks) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ours = socket.create_connection(listening.getsockname())
            self.camera, _ = listening.accept()
        ours.setblocking(False)
        self.link: CameraLink = links.open(DialedCamera(ours, "127.0.0.1"))
        host, port = self.link.authority.rsplit(":", 1)
        self.client = socket.create_connection((host, int(port)))
        for sock in (self.camera, self.client):
            sock.settimeout(5)

    def play(self) -> None:
        self.client.sendall(_PLAY)
        assert self.camera.recv(1000) == _PLAY
        self.camera.sendall(_OK)
        assert self.client.recv(1000) == _OK

    def close(self) -> None:
        self.camera.close()
        self.client.close()
        self.link.close()


@pytest.fixture
def bench(links: CameraLinks) -> Iterator[_Bench]:
    with closing(_Bench(links)) as bench:
        yield bench


def _received(sock: socket.socket, size_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < size_bytes and (part := sock.recv(65_536)):
        data += part
    return bytes(data)


def _sent_until_refused(sock: socket.socket, data: bytes) -> int:
    """Send the same again and again, 100 MB at most, until that fails; return how much was taken."""
    sent_bytes = 0
    with suppress(OSError):
        while sent_bytes < 100 * _MB:
            sent_bytes += sock.send(data)
    return sent_bytes


def _relay_threads() -> int:
    return sum(thread.name == "camera-links" for thread in threading.enumerate())


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_after_play_bytes_pass_unchanged_in_both_directions(bench: _Bench) -> None:
    bench.play()
    media, report = bytes(range(256)) * 4000, b"$\x01\x00\x04abcd"
    sender = threading.Thread(target=bench.camera.sendall, args=(media,))
    sender.start()
    received = _received(bench.client, len(media))
    sender.join()
    bench.client.sendall(report)

    assert received == media
    assert _received(bench.camera, len(report)) == report


def test_what_the_camera_sent_last_arrives_before_the_end(bench: _Bench) -> None:
    bench.play()
    bench.camera.sendall(b"last")
    bench.camera.close()

    assert _received(bench.client, 5) == b"last"
    assert bench.link.end is LinkEnd.CAMERA


def test_the_goodbye_reaches_the_camera_although_media_was_unread(bench: _Bench) -> None:
    bench.play()
    bench.camera.settimeout(0.3)
    _sent_until_refused(bench.camera, b"x" * _MB)
    bench.client.sendall(b"TEARDOWN x RTSP/1.0\r\n\r\n")
    bench.client.close()

    assert _received(bench.camera, 100) == b"TEARDOWN x RTSP/1.0\r\n\r\n"


def test_after_shut_the_client_is_at_the_end_and_can_still_say_goodbye(bench: _Bench) -> None:
    bench.play()
    bench.link.shut()
    at_end = bench.client.recv(10)
    bench.client.sendall(b"TEARDOWN x RTSP/1.0\r\n\r\n")

    assert at_end == b""
    assert bench.camera.recv(100).startswith(b"TEARDOWN")
    assert bench.link.end is LinkEnd.SHUT


def test_after_shut_it_goes_even_where_nobody_closes(links: CameraLinks, bench: _Bench) -> None:
    bench.play()
    bench.link.shut()

    assert bench.camera.recv(10) == b""


def test_a_client_that_does_not_read_makes_the_camera_wait_and_costs_no_memory(bench: _Bench) -> None:
    bench.play()
    before_bytes = psutil.Process().memory_info().rss
    bench.camera.settimeout(0.5)
    sent_bytes = _sent_until_refused(bench.camera, b"x" * _MB)

    assert sent_bytes < 40 * _MB  # what the kernel holds for four sockets
    assert psutil.Process().memory_info().rss - before_bytes < 8 * _MB
    assert _received(bench.client, sent_bytes) == b"x" * sent_bytes


def test_a_slow_ffmpeg_leaves_little_waiting_on_its_way(bench: _Bench) -> None:
    bench.play()
    bench.camera.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    bench.camera.settimeout(0.5)
    sent_bytes = list[int]()
    sender = threading.Thread(target=lambda: sent_bytes.append(_sent_until_refused(bench.camera, b"x" * 65_536)))
    sender.start()
    received_bytes = 0
    deadline_s = time.monotonic() + 2
    while time.monotonic() < deadline_s:
        received_bytes += len(_received(bench.client, 65_536))
        time.sleep(0.02)
    sender.join()

    assert received_bytes > _MB
    assert sent_bytes[0] - received_bytes < 2.5 * _MB  # measured: 1.1 to 1.3 MB; without the bound 4.2 to 5.4 MB


def test_what_a_camera_of_80_megabits_sends_passes_without_delay(bench: _Bench) -> None:
    bench.play()
    picture, slowest_s = b"x" * 400_000, 0.0  # 25 a second
    for _ in range(25):
        started_s = time.monotonic()
        sender = threading.Thread(target=bench.camera.sendall, args=(picture,))
        sender.start()
        assert len(_received(bench.client, len(picture))) == len(picture)
        sender.join()
        slowest_s = max(slowest_s, time.monotonic() - started_s)
        time.sleep(max(0.0, 0.04 - (time.monotonic() - started_s)))

    assert slowest_s < 0.5  # measured: 0.05, as without small buffers


@pytest.mark.parametrize(
    "flood",
    [
        b"RTSP/1.0 200 OK\r\n" + b"A: b\r\n" * 100_000,
        b"x" * 600_000,
        b"\r\n" * 300_000,
        b"$\0\0\0" * 150_000,
        b"RTSP/1.0 200 OK\r\n\r\n" * 30_000,
    ],
)
def test_a_flood_before_the_first_answer_costs_no_memory(bench: _Bench, flood: bytes) -> None:
    before_bytes = psutil.Process().memory_info().rss
    drain = threading.Thread(target=_received, args=(bench.client, 100 * _MB))
    drain.start()
    sent_bytes = _sent_until_refused(bench.camera, flood)
    drain.join()

    assert sent_bytes < 100 * _MB
    assert bench.link.end is LinkEnd.NOT_RTSP
    assert psutil.Process().memory_info().rss - before_bytes < 8 * _MB


def test_a_camera_that_floods_does_not_slow_another_one(links: CameraLinks, bench: _Bench) -> None:
    bench.play()
    stopping = threading.Event()

    def flood() -> None:
        while not stopping.is_set():
            bench.camera.sendall(b"x" * 65_536)

    def drain() -> None:
        while bench.client.recv(1_000_000):
            pass

    threads = [threading.Thread(target=flood), threading.Thread(target=drain)]
    for thread in threads:
        thread.start()
    slowest_s = 0.0
    with closing(_Bench(links)) as other:
        other.play()
        for _ in range(50):
            started_s = time.monotonic()
            other.camera.sendall(b"picture")
            assert other.client.recv(10) == b"picture"
            slowest_s = max(slowest_s, time.monotonic() - started_s)
    stopping.set()
    threads[0].join()
    bench.camera.close()
    threads[1].join()

    assert slowest_s < 0.5  # measured: 0.02 to 0.06


def test_the_port_for_ffmpeg_takes_one_connection_only(bench: _Bench) -> None:
    bench.play()
    host, port = bench.link.authority.rsplit(":", 1)

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


def test_one_thread_serves_all_links_and_ends_with_them(links: CameraLinks) -> None:
    benches = [_Bench(links) for _ in range(5)]
    for bench in benches:
        bench.play()
    during = _relay_threads()
    links.close()

    assert during == 1
    assert _relay_threads() == 0
    assert [bench.client.recv(10) for bench in benches] == [b""] * 5
    for bench in benches:
        bench.close()


def test_links_can_be_opened_again_after_close(links: CameraLinks) -> None:
    links.close()
    with closing(_Bench(links)) as bench:
        bench.play()


def test_nothing_is_left_of_closed_links(links: CameraLinks, bench: _Bench) -> None:
    bench.play()
    before = _descriptors()
    for number in range(60):
        with closing(_Bench(links)) as other:
            if number % 3:
                other.play()
            if number % 2:
                other.link.shut()

    wait_until_sync(lambda: _descriptors() <= before)
