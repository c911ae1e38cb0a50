"""The reader of one camera, without a manager: FFmpeg, the relay and cameras of every kind."""

import asyncio
import ipaddress
import socket
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.rtsp_peer import SDP, deaf_camera, ok, parse_camera, rtsp_peer, trap
from support.tiny_clip import TinyClip, read_frame_number, write_large_clip, write_tiny_clip
from support.unread_file import unread_file
from support.waiting import wait_until

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import Fault, RtspServer, same_film
from detector_worker.streams.camera_link import CameraLinks
from detector_worker.streams.frame_reader import RTSPReader

_NewReader = Callable[..., RTSPReader]
_NOT_THERE = NetworkPolicy(denied=(ipaddress.ip_network("127.0.0.2/32"),))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> TinyClip:
    return write_tiny_clip(tmp_path_factory.mktemp("film") / "film.mp4", fps=20, seconds=1)


@pytest.fixture
async def server(film: TinyClip) -> AsyncIterator[RtspServer]:
    async with RtspServer(same_film(Clip.load(film.path), 2)) as running:
        yield running


@pytest.fixture
def links() -> Iterator[CameraLinks]:
    with closing(CameraLinks()) as links:
        yield links


@pytest.fixture
def new_reader(links: CameraLinks) -> Iterator[_NewReader]:
    readers = list[RTSPReader]()

    def make(
        url: str,
        *,
        policy: NetworkPolicy | None = None,
        transport: str | None = None,
        open_timeout_s: float = 7.0,
        read_timeout_s: float = 9.0,
        stopping: threading.Event | None = None,
    ) -> RTSPReader:
        reader = RTSPReader(
            parse_camera(url),
            "gate",
            stopping or threading.Event(),
            clock=SystemClock(),
            policy=policy or NetworkPolicy(),
            links=links,
            transport=transport,  # type: ignore[arg-type]
            open_timeout_s=open_timeout_s,
            read_timeout_s=read_timeout_s,
        )
        readers.append(reader)
        return reader

    yield make
    for reader in readers:
        reader.close()


async def _read(reader: RTSPReader, number: int) -> list[Frame]:
    """Connect and read."""

    def work() -> list[Frame]:
        reader.connect()
        return [frame for _ in range(number) if (frame := reader.read_frame())]

    return await asyncio.to_thread(work)


async def _error(reader: RTSPReader) -> StreamError:
    """Read until the error that ends it."""

    def work() -> None:
        reader.connect()
        while reader.read_frame():
            pass

    with pytest.raises(StreamError) as caught:
        await asyncio.to_thread(work)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
    return caught.value


def _url(port: int) -> str:
    return f"rtsp://127.0.0.1:{port}/x"


def _redirect(location: str) -> bytes:
    return f"RTSP/1.0 302 Moved\r\nCSeq: 0\r\nLocation: {location}\r\n\r\n".encode()


# Opening and reading


async def test_the_first_picture_is_the_key_frame_and_comes_soon(server: RtspServer, new_reader: _NewReader) -> None:
    async with asyncio.timeout(2):  # FFmpeg left alone takes a second to guess the rate, or a GOP with "nobuffer"
        (frame,) = await _read(new_reader(server.urls["cam-1"]), 1)

    assert read_frame_number(frame.bgr()) == 0


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("libx265", "mp4"), ("mjpeg", "avi")])
async def test_every_codec_of_cameras_can_be_read(
    codec: str, suffix: str, tmp_path: Path, new_reader: _NewReader
) -> None:
    film = write_tiny_clip(tmp_path / f"film.{suffix}", fps=20, seconds=1, codec=codec)
    async with RtspServer(same_film(Clip.load(film.path))) as server:
        frames = await _read(new_reader(server.urls["cam-1"]), 25)

    assert [read_frame_number(frame.bgr()) for frame in frames] == [number % 20 for number in range(25)]


@pytest.mark.parametrize("scheme", ["basic", "digest"])
async def test_a_camera_gets_its_password(server: RtspServer, new_reader: _NewReader, scheme: str) -> None:
    server.set_credentials("cam-1", "viewer", "canary-password", scheme=scheme)  # type: ignore[arg-type]

    assert len(await _read(new_reader(server.urls["cam-1"]), 2)) == 2


async def test_frame_ids_go_on_over_a_reconnection(server: RtspServer, new_reader: _NewReader) -> None:
    reader = new_reader(server.urls["cam-1"])

    def work() -> list[int]:
        reader.connect()
        ids = [frame.frame_id for _ in range(3) if (frame := reader.read_frame())]
        reader.handle_reconnection()
        return ids + [frame.frame_id for _ in range(3) if (frame := reader.read_frame())]

    assert await asyncio.to_thread(work) == [1, 2, 3, 4, 5, 6]


async def test_the_camera_loses_its_viewer_when_the_reader_closes(server: RtspServer, new_reader: _NewReader) -> None:
    reader = new_reader(server.urls["cam-1"])
    await asyncio.to_thread(reader.connect)
    assert server.connected("cam-1") == 1
    await asyncio.to_thread(reader.close)

    await wait_until(lambda: server.connected("cam-1") == 0)


@pytest.mark.slow
async def test_two_hundred_connections_leave_no_descriptor(server: RtspServer, new_reader: _NewReader) -> None:
    reader = new_reader(server.urls["cam-1"])

    def work(times: int) -> None:
        for number in range(times):
            reader.handle_reconnection()
            if number % 3 == 0:
                reader.abort()
        reader.close()

    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    await asyncio.to_thread(work, 5)
    await wait_until(lambda: server.connected("cam-1") == 0)
    before = descriptors()
    await asyncio.to_thread(work, 200)

    await wait_until(lambda: descriptors() <= before)


# Times


async def test_frames_carry_the_time_of_capture_not_of_arrival(server: RtspServer, new_reader: _NewReader) -> None:
    reader = new_reader(server.urls["cam-1"])
    arrived_s = list[float]()

    def work() -> list[Frame]:
        reader.connect()
        frames = []
        for number in range(30):
            if number == 10:
                time.sleep(0.5)  # what the camera sends meanwhile waits, and was taken then
            if frame := reader.read_frame():
                frames.append(frame)
                arrived_s.append(time.monotonic())
        return frames

    frames = await asyncio.to_thread(work)
    late_s = arrived_s[10] - frames[10].time_s

    assert 0.3 < late_s < 0.6
    assert [frame.time_s for frame in frames] == sorted(frame.time_s for frame in frames)
    assert frames[10].captured_at == pytest.approx(time.time() - (time.monotonic() - frames[10].time_s), abs=0.2)
    assert reader.clock_is_suspect is False


async def test_a_camera_whose_clock_jumps_is_suspect_until_it_is_connected_anew(
    server: RtspServer, new_reader: _NewReader
) -> None:
    reader = new_reader(server.urls["cam-1"])
    await _read(reader, 5)
    server.set_fault("cam-1", Fault.CLOCK_JUMP)

    def read_until_suspect() -> bool:
        deadline_s = time.monotonic() + 12  # the simulator reports every 5 s
        while time.monotonic() < deadline_s and not reader.clock_is_suspect:
            reader.read_frame()
        return reader.clock_is_suspect

    assert await asyncio.to_thread(read_until_suspect)
    await asyncio.to_thread(reader.handle_reconnection)
    assert reader.clock_is_suspect is False


async def test_time_that_jumps_back_in_the_stream_does_not_stop_it(server: RtspServer, new_reader: _NewReader) -> None:
    reader = new_reader(server.urls["cam-1"])
    server.set_fault("cam-1", Fault.BACKWARDS)
    times_s = [frame.time_s for frame in await _read(reader, 40)]

    assert len(times_s) == 40
    assert times_s == sorted(times_s)


# Damage


@pytest.mark.slow
async def test_no_damaged_picture_is_passed(tmp_path: Path, new_reader: _NewReader) -> None:
    film = write_tiny_clip(tmp_path / "film.mp4", fps=50, seconds=2, gop=25)
    clip = Clip.load(film.path)
    async with RtspServer(same_film(clip, 2)) as server:
        reader, sound = new_reader(server.urls["cam-1"]), new_reader(server.urls["cam-2"])
        truth = {read_frame_number(one.bgr()): one.bgr() for one in await _read(sound, film.frames)}
        server.set_fault("cam-1", Fault.CORRUPT)

        def work() -> list[Frame]:
            reader.connect()
            frames = list[Frame]()
            while len(frames) + reader.damaged < 300 and (frame := reader.read_frame()):
                frames.append(frame)
            return frames

        frames = await asyncio.to_thread(work)

    wrong = [one for one in frames if abs(one.bgr().astype(int) - truth[read_frame_number(one.bgr())]).max() > 60]
    assert reader.damaged > 0
    assert len(frames) > 50
    assert wrong == []


async def test_pictures_of_another_size_in_mid_stream_are_delivered_as_they_are(
    server: RtspServer, film: TinyClip, tmp_path: Path, new_reader: _NewReader
) -> None:
    larger = write_tiny_clip(tmp_path / "film.mp4", fps=20, seconds=1, wh=(800, 480))
    reader = new_reader(server.urls["cam-1"])
    before = await _read(reader, 3)
    server.switch_clip("cam-1", Clip.load(larger.path))

    def read_on() -> list[tuple[int, int]]:
        return [frame.wh for _ in range(40) if (frame := reader.read_frame())]

    sizes = await asyncio.to_thread(read_on)
    assert {frame.wh for frame in before} == {film.wh}
    assert sizes[-1] == (800, 480)
    assert set(sizes) <= {film.wh, (800, 480)}


@pytest.fixture(scope="module")
def too_large(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return Clip.load(write_large_clip(tmp_path_factory.mktemp("large") / "film.mp4"))


async def test_a_camera_with_pictures_that_are_too_large_is_refused(too_large: Clip, new_reader: _NewReader) -> None:
    async with RtspServer(same_film(too_large)) as server:
        error = await _error(new_reader(server.urls["cam-1"]))

    assert error.error_class == "corrupt"
    assert "6400 x 6272 pixels, refused undecoded (at most 40,000,000)" in error.what


async def test_a_camera_whose_pictures_become_too_large_in_mid_stream_is_refused(
    server: RtspServer, too_large: Clip, new_reader: _NewReader
) -> None:
    reader = new_reader(server.urls["cam-1"])
    await _read(reader, 3)
    server.switch_clip("cam-1", too_large)

    def read_on() -> None:
        while reader.read_frame():
            pass

    with pytest.raises(StreamError, match="refused undecoded") as caught:
        await asyncio.to_thread(read_on)
    assert caught.value.error_class == "corrupt"


# Errors


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        (Fault.REFUSE, "refused"),
        (Fault.HANG_CONNECT, "timeout"),
        (Fault.HANG_PLAY, "timeout"),
        (Fault.DRIP, "timeout"),
        (Fault.RESET, "ended"),
        (Fault.END, "ended"),
        (Fault.UNAUTHORIZED, "authentication"),
        (Fault.NOT_FOUND, "not_found"),
        (Fault.AUDIO_ONLY, "codec"),
    ],
)
async def test_a_camera_s_fault_has_its_class(
    server: RtspServer, new_reader: _NewReader, fault: Fault, error_class: str
) -> None:
    server.set_fault("cam-1", fault)
    reader = new_reader(server.urls["cam-1"], open_timeout_s=1.5, read_timeout_s=1.0)

    assert (await _error(reader)).error_class == error_class


@pytest.mark.parametrize("method", ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"])
@pytest.mark.parametrize(
    ("answer", "error_class"),
    [
        (b"", "refused"),
        (b"RTSP/1.0 403 Forbidden\r\nCSeq: 0\r\n\r\n", "authentication"),
        (b"RTSP/1.0 503 Service Unavailable\r\nCSeq: 0\r\n\r\n", "refused"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "corrupt"),
        (None, "timeout"),
    ],
)
async def test_an_answer_at_any_step_has_its_class(
    new_reader: _NewReader, method: str, answer: bytes | None, error_class: str
) -> None:
    async with rtsp_peer(lambda asked: answer if asked == method else ok(asked)) as peer:
        error = await _error(new_reader(_url(peer.port), open_timeout_s=0.5, read_timeout_s=0.5))

    assert error.error_class == error_class
    assert peer.methods[-1] == method or "TEARDOWN" in peer.methods


async def test_a_camera_that_does_not_answer_is_a_timeout_within_the_opening_time(new_reader: _NewReader) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        started_s = time.monotonic()
        error = await _error(new_reader(_url(listening.getsockname()[1]), open_timeout_s=0.5))

    assert error.error_class == "timeout"
    assert time.monotonic() - started_s < 1.5


# Redirects and other ways to lead FFmpeg astray


@pytest.mark.parametrize("chunk_bytes", [None, 1])
@pytest.mark.parametrize("method", ["OPTIONS", "DESCRIBE", "SETUP"])
async def test_a_redirect_to_where_the_worker_must_not_connect_is_refused(
    new_reader: _NewReader, method: str, chunk_bytes: int | None
) -> None:
    with trap() as forbidden:
        location = _redirect(f"rtsp://127.0.0.2:{forbidden.port}/x?token=canary-token")
        async with rtsp_peer(lambda asked: location if asked == method else ok(asked), chunk_bytes=chunk_bytes) as peer:
            error = await _error(new_reader(_url(peer.port), policy=_NOT_THERE))

        assert error.error_class == "refused"
        assert f"redirected to rtsp://127.0.0.2:{forbidden.port}/x" in error.where
        assert not forbidden.was_entered()


async def test_the_trap_is_one_where_ffmpeg_would_go(new_reader: _NewReader) -> None:
    with trap() as open_to_all:
        async with rtsp_peer(lambda _: _redirect(f"rtsp://127.0.0.2:{open_to_all.port}/x")) as peer:
            await _error(new_reader(_url(peer.port), open_timeout_s=0.5))

        assert open_to_all.was_entered()


async def test_a_redirect_to_the_metadata_service_is_refused(new_reader: _NewReader) -> None:
    async with rtsp_peer(lambda _: _redirect("rtsp://169.254.169.254/latest")) as peer:
        error = await _error(new_reader(_url(peer.port)))

    assert error.error_class == "refused"
    assert "169.254.169.254" in error.what


@pytest.mark.parametrize("location", ["http://127.0.0.1/x", "file:///etc/passwd", "x", "", "rtsp://a b/"])
async def test_a_redirect_to_no_camera_is_refused(new_reader: _NewReader, location: str) -> None:
    async with rtsp_peer(lambda _: _redirect(location)) as peer:
        error = await _error(new_reader(_url(peer.port)))

    assert error.error_class == "refused"
    assert "redirect" in error.what


async def test_a_redirect_to_an_allowed_camera_is_followed_and_the_password_goes_along(
    server: RtspServer, new_reader: _NewReader
) -> None:
    server.set_credentials("cam-1", "viewer", "canary-password")
    async with rtsp_peer(lambda _: _redirect(server.urls["cam-1"])) as peer:
        assert len(await _read(new_reader(_url(peer.port)), 2)) == 2


async def test_the_password_does_not_go_to_another_host(new_reader: _NewReader) -> None:
    challenge = b'RTSP/1.0 401 Unauthorized\r\nCSeq: 0\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'
    async with (
        rtsp_peer(lambda _: challenge) as other,
        rtsp_peer(lambda _: _redirect(f"rtsp://localhost:{other.port}/x")) as peer,
    ):
        error = await _error(new_reader(_url(peer.port)))

    assert error.error_class == "authentication"
    assert other.heads
    assert not any("Authorization" in head for head in other.heads)


async def test_a_camera_that_redirects_for_ever_is_refused(new_reader: _NewReader) -> None:
    async with rtsp_peer(lambda _: _redirect(f"rtsp://127.0.0.1:{port}/x")) as peer:
        port = peer.port
        error = await _error(new_reader(_url(peer.port)))

    assert error.error_class == "refused"
    assert "more than 3 times" in error.what
    assert peer.connections == 4


@pytest.mark.parametrize("source", [";source=127.0.0.2", ""])
async def test_udp_goes_to_the_camera_alone_wherever_its_answer_points(new_reader: _NewReader, source: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as camera, socket.socket(type=socket.SOCK_DGRAM) as elsewhere:
        camera.bind(("127.0.0.1", 0))
        port = camera.getsockname()[1]
        elsewhere.bind(("127.0.0.2", port))
        for sock in (camera, elsewhere):
            sock.settimeout(0.5)

        def answer(method: str) -> bytes:
            if method != "SETUP":
                return ok(method)
            transport = f"RTP/AVP;unicast;client_port=5000-5001;server_port={port}-{port}{source}"
            return f"RTSP/1.0 200 OK\r\nCSeq: 0\r\nSession: 1\r\nTransport: {transport}\r\n\r\n".encode()

        async with rtsp_peer(answer) as peer:
            reader = new_reader(_url(peer.port), transport="udp", open_timeout_s=0.5, read_timeout_s=0.5)
            assert (await _error(reader)).error_class == "timeout"

        assert camera.recv(2000)
        with pytest.raises(TimeoutError):
            elsewhere.recv(2000)


async def test_udp_is_asked_for_where_the_camera_refuses_tcp(new_reader: _NewReader) -> None:
    refusal = b"RTSP/1.0 461 Unsupported Transport\r\nCSeq: 0\r\n\r\n"
    async with rtsp_peer(lambda method: refusal if method == "SETUP" else ok(method)) as peer:
        error = await _error(new_reader(_url(peer.port)))

    asked = [head.partition("Transport: ")[2].split(";")[0] for head in peer.heads if head.startswith("SETUP")]
    assert asked == ["RTP/AVP/TCP", "RTP/AVP/UDP"]
    assert error.error_class == "refused"


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    with unread_file(tmp_path) as path:
        yield path


_PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{file}\n#EXT-X-ENDLIST\n"
_CONTROL = "c=IN IP4 127.0.0.1\r\na=control:file://{file}\r\n"


def _described(body: str, kind: str = "application/sdp") -> Callable[[str], bytes]:
    description = f"RTSP/1.0 200 OK\r\nCSeq: 0\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    return lambda method: description.encode() if method == "DESCRIBE" else ok(method)


@pytest.mark.parametrize("kind", ["application/sdp", "application/vnd.apple.mpegurl"])
async def test_a_description_that_is_a_playlist_of_local_files_is_refused(
    new_reader: _NewReader, secret: Path, kind: str
) -> None:
    async with rtsp_peer(_described(_PLAYLIST.format(file=secret), kind)) as peer:
        error = await _error(new_reader(_url(peer.port)))

    assert error.error_class == "codec"


@pytest.mark.parametrize("text", [_PLAYLIST, SDP + _CONTROL])
async def test_a_playlist_or_sdp_in_place_of_rtsp_is_refused(new_reader: _NewReader, secret: Path, text: str) -> None:
    async with rtsp_peer(lambda _: (text.format(file=secret) + "\r\n\r\n").encode()) as peer:
        error = await _error(new_reader(_url(peer.port)))

    assert error.error_class == "corrupt"


async def test_a_track_that_is_said_to_be_a_local_file_is_asked_of_the_camera(
    new_reader: _NewReader, secret: Path
) -> None:
    async with rtsp_peer(_described(SDP + _CONTROL.format(file=secret))) as peer:
        error = await _error(new_reader(_url(peer.port), open_timeout_s=0.5, read_timeout_s=0.5))

    assert f"SETUP file://{secret} RTSP/1.0" in "".join(peer.heads)
    assert error.error_class == "timeout"


# Being ended from outside


async def _seconds_from_abort_to_end(reader: RTSPReader, is_there: Callable[[], object]) -> float:
    """Abort once the reader is where it should be; return how long it then takes to end."""
    task = asyncio.create_task(_error(reader))
    await wait_until(is_there)
    await asyncio.sleep(0.1)
    reader.abort()
    started_s = time.monotonic()
    error = await task
    assert error.error_class == "ended"
    return time.monotonic() - started_s


async def test_abort_ends_connecting(new_reader: _NewReader) -> None:
    with deaf_camera() as port:
        assert await _seconds_from_abort_to_end(new_reader(_url(port)), lambda: True) < 0.5


@pytest.mark.parametrize("method", ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"])
async def test_abort_ends_every_step_of_the_handshake(new_reader: _NewReader, method: str) -> None:
    async with rtsp_peer(lambda asked: None if asked == method else ok(asked)) as peer:
        reader = new_reader(_url(peer.port))

        assert await _seconds_from_abort_to_end(reader, lambda: method in peer.methods) < 0.5


async def test_abort_ends_waiting_for_the_first_picture(server: RtspServer, new_reader: _NewReader) -> None:
    server.set_fault("cam-1", Fault.HANG_PLAY)
    reader = new_reader(server.urls["cam-1"])

    assert await _seconds_from_abort_to_end(reader, lambda: server.connected("cam-1")) < 0.5


async def test_abort_ends_reading_and_the_camera_can_be_connected_anew(
    server: RtspServer, new_reader: _NewReader
) -> None:
    reader = new_reader(server.urls["cam-1"])

    assert await _seconds_from_abort_to_end(reader, lambda: server.connected("cam-1")) < 0.5
    assert len(await _read(reader, 3)) == 3


async def test_closing_the_links_ends_reading(server: RtspServer, new_reader: _NewReader, links: CameraLinks) -> None:
    server.set_fault("cam-1", Fault.HANG_PLAY)
    task = asyncio.create_task(_error(new_reader(server.urls["cam-1"])))
    await wait_until(lambda: server.connected("cam-1"))
    await asyncio.to_thread(links.close)
    async with asyncio.timeout(1):
        error = await task

    assert error.error_class in {"ended", "refused"}


async def test_a_reader_that_is_stopping_ends_without_an_error(server: RtspServer, new_reader: _NewReader) -> None:
    stopping = threading.Event()
    reader = new_reader(server.urls["cam-1"], stopping=stopping)
    await _read(reader, 1)
    stopping.set()
    reader.abort()

    assert await asyncio.to_thread(reader.read_frame) is None


async def test_a_reader_that_is_stopping_does_not_connect(server: RtspServer, new_reader: _NewReader) -> None:
    stopping = threading.Event()
    stopping.set()
    error = await _error(new_reader(server.urls["cam-1"], stopping=stopping))

    assert error.error_class == "ended"
    assert server.connected("cam-1") == 0


def test_abort_before_anything_was_opened_changes_nothing(new_reader: _NewReader) -> None:
    new_reader("rtsp://127.0.0.1:1/x").abort()
