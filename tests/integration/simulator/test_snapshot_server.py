"""Single pictures over HTTP, as a client gets them from a film, and what goes wrong when told to."""

import asyncio
import base64
import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import av
import cv2
import numpy as np
import pytest
import simplejpeg
from support.tiny_clip import read_frame_number, write_tiny_clip
from support.waiting import wait_until

from detector_worker.core.exceptions import ConfigurationError, ServiceError
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.credentials import Scheme
from detector_worker.simulator.faults import SnapshotFault
from detector_worker.simulator.rtsp_server import RtspServer
from detector_worker.simulator.snapshot_server import SnapshotServer

FPS: Final = 5
PICTURES: Final = 10
SILENCE_S: Final = 0.7


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return Clip.load(write_tiny_clip(path, seconds=PICTURES / FPS, fps=FPS, gop=5, b_frames=2).path)


@pytest.fixture
async def server(clip: Clip) -> AsyncIterator[SnapshotServer]:
    async with SnapshotServer({"cam-1": clip, "cam-2": clip}) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5), trust_env=False) as session:
        yield session


def number_of(data: bytes) -> int:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return read_frame_number(np.asarray(image, np.uint8))


async def fetch(http: aiohttp.ClientSession, url: str) -> bytes:
    async with http.get(url) as answer:
        assert answer.status == 200
        return await answer.read()


async def status_of(http: aiohttp.ClientSession, url: str) -> int:
    async with http.get(url, allow_redirects=False) as answer:
        return answer.status


async def test_each_picture_is_the_films_moment_through_all_rounds(
    server: SnapshotServer, http: aiohttp.ClientSession
) -> None:
    began_s = time.monotonic()
    while time.monotonic() - began_s < 2.5 * PICTURES / FPS:
        before_s = time.monotonic()
        number = number_of(await fetch(http, server.urls["cam-1"]))
        due = (server.sent("cam-1")[-1].film_s * FPS) % PICTURES
        assert number == pytest.approx(due)
        assert before_s - began_s - 0.3 <= server.sent("cam-1")[-1].film_s <= time.monotonic() - began_s
        await asyncio.sleep(0.13)


async def test_a_picture_after_a_long_rest_is_right(server: SnapshotServer, http: aiohttp.ClientSession) -> None:
    assert number_of(await fetch(http, server.urls["cam-1"])) == 0
    await asyncio.sleep(1.5)  # past a key frame

    number = number_of(await fetch(http, server.urls["cam-1"]))

    assert number in {7, 8}
    assert server.sent("cam-1")[-1].film_s == pytest.approx(number / FPS)


@pytest.mark.parametrize(("codec", "ending"), [("libx265", "mp4"), ("mjpeg", "mkv"), ("mpeg4", "mp4")])
async def test_films_of_other_codecs_give_pictures_too(
    http: aiohttp.ClientSession, tmp_path: Path, codec: str, ending: str
) -> None:
    path = tmp_path / f"clip.{ending}"
    clip = await asyncio.to_thread(lambda: Clip.load(write_tiny_clip(path, seconds=2, fps=FPS, codec=codec).path))
    async with SnapshotServer({"cam-1": clip}) as server:
        for _ in range(4):
            number = number_of(await fetch(http, server.urls["cam-1"]))
            assert number == pytest.approx(server.sent("cam-1")[-1].film_s * FPS)
            await asyncio.sleep(0.3)


async def test_a_png_is_the_same_moment(server: SnapshotServer, http: aiohttp.ClientSession) -> None:
    data = await fetch(http, server.urls["cam-1"] + ".png")

    assert data.startswith(b"\x89PNG")
    assert number_of(data) == 0


async def test_the_same_picture_is_not_sent_again_to_who_has_it(
    server: SnapshotServer, http: aiohttp.ClientSession
) -> None:
    async with http.get(server.urls["cam-1"]) as answer:
        etag = answer.headers["ETag"]
        first = await answer.read()
    async with http.get(server.urls["cam-1"], headers={"If-None-Match": etag}) as again:
        assert (again.status, await again.read()) == (304, b"")
    assert len(server.sent("cam-1")) == 1
    await asyncio.sleep(1.5 / FPS)
    async with http.get(server.urls["cam-1"], headers={"If-None-Match": etag}) as other:
        assert other.status == 200
        assert await other.read() != first


async def test_one_connection_serves_many_requests(server: SnapshotServer, http: aiohttp.ClientSession) -> None:
    for _ in range(5):
        await fetch(http, server.urls["cam-1"])

    assert (server.connections_made("cam-1"), server.connected("cam-1")) == (1, 1)
    assert (server.connections_made("cam-2"), server.connected("cam-2")) == (0, 0)
    await http.close()
    await wait_until(lambda: server.connected("cam-1") == 0)
    assert server.connections_made("cam-1") == 1


async def parts(http: aiohttp.ClientSession, url: str, count: int) -> list[bytes]:
    found: list[bytes] = []
    async with http.get(url + ".mjpeg") as answer:
        assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=picture"
        reader = aiohttp.MultipartReader.from_response(answer)
        while len(found) < count and (part := await reader.next()) is not None:
            assert isinstance(part, aiohttp.BodyPartReader)
            found.append(bytes(await part.read()))
        answer.close()
    return found


async def test_a_stream_has_every_picture_at_the_films_rate(
    server: SnapshotServer, http: aiohttp.ClientSession
) -> None:
    began_s = time.monotonic()
    pictures = await parts(http, server.urls["cam-1"], 13)

    assert [number_of(data) for data in pictures] == [index % PICTURES for index in range(13)]
    # A picture's end is seen when the next one begins.
    assert time.monotonic() - began_s == pytest.approx(13 / FPS, abs=0.3)


def watch_stream(url: str) -> list[int]:
    with av.open(url, format="mpjpeg", timeout=(5, 5)) as container:
        frames = (frame for frame, _ in zip(container.decode(video=0), range(5), strict=False))
        return [read_frame_number(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)) for frame in frames]


async def test_ffmpeg_reads_the_stream(server: SnapshotServer) -> None:
    assert await asyncio.to_thread(watch_stream, server.urls["cam-1"] + ".mjpeg") == [0, 1, 2, 3, 4]


async def test_a_single_picture_is_given_as_it_is_or_in_the_other_format(http: aiohttp.ClientSession) -> None:
    image = np.full((48, 64, 3), 200, np.uint8)
    png = cv2.imencode(".png", image)[1].tobytes()
    async with SnapshotServer({"still": png}) as server:
        assert await fetch(http, server.urls["still"] + ".png") == png
        jpeg = await fetch(http, server.urls["still"])
        assert jpeg.startswith(b"\xff\xd8")
        assert [picture.film_s for picture in server.sent("still")] == [0.0, 0.0]


async def test_what_is_no_picture_is_refused(server: SnapshotServer) -> None:
    with pytest.raises(ConfigurationError, match="JPEG or a PNG"):
        server.add_camera("cam-3", b"no picture")


async def test_a_camera_can_be_added_while_the_server_runs_but_not_twice(
    server: SnapshotServer, clip: Clip, http: aiohttp.ClientSession
) -> None:
    assert number_of(await fetch(http, server.add_camera("north gate", clip))) == 0
    with pytest.raises(ValueError, match="north gate"):
        server.add_camera("north gate", clip)


@pytest.mark.parametrize("path", ["cam-9", "cam-1.gif", ""])
async def test_what_does_not_exist_is_404(server: SnapshotServer, http: aiohttp.ClientSession, path: str) -> None:
    assert await status_of(http, f"http://127.0.0.1:{server.port}/{path}") == 404


async def test_a_busy_port_is_told(server: SnapshotServer) -> None:
    with pytest.raises(ServiceError, match=str(server.port)):
        async with SnapshotServer(port=server.port):
            pass


async def test_the_same_moment_is_shown_over_rtsp(clip: Clip, http: aiohttp.ClientSession) -> None:
    async with RtspServer({"cam-1": clip}) as rtsp, SnapshotServer({"cam-1": rtsp.screen("cam-1")}) as server:
        await fetch(http, server.urls["cam-1"])
        await asyncio.sleep(3 / FPS)
        number = number_of(await fetch(http, server.urls["cam-1"]))

        assert rtsp.sent("cam-1") == server.sent("cam-1")
        assert rtsp.sent("cam-1")[-1].film_s == pytest.approx(number / FPS)


async def test_a_switched_clip_is_seen(clip: Clip, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    other = Clip.load(write_tiny_clip(tmp_path / "other.mp4", seconds=1, wh=(480, 320)).path)
    async with RtspServer({"cam-1": clip}) as rtsp, SnapshotServer({"cam-1": rtsp.screen("cam-1")}) as server:
        await fetch(http, server.urls["cam-1"])
        rtsp.switch_clip("cam-1", other)
        data = await fetch(http, server.urls["cam-1"])

    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (320, 480, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize("scheme", ["basic", "digest"])
async def test_the_right_password_is_asked_for(server: SnapshotServer, scheme: Scheme) -> None:
    server.set_credentials("cam-1", "me", "p@ss", scheme=scheme)

    for word, status in (("p@ss", 200), ("wrong", 401)):
        basic = base64.b64encode(f"me:{word}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}"} if scheme == "basic" else {}
        middlewares = () if headers else (aiohttp.DigestAuthMiddleware("me", word),)
        async with aiohttp.ClientSession(headers=headers, middlewares=middlewares) as http:
            assert await status_of(http, server.urls["cam-1"]) == status
    async with aiohttp.ClientSession() as http:
        assert await status_of(http, server.urls["cam-1"]) == 401
        assert await status_of(http, server.urls["cam-2"]) == 200


@pytest.mark.parametrize(
    ("fault", "status"),
    [(SnapshotFault.UNAUTHORIZED, 401), (SnapshotFault.NOT_FOUND, 404), (SnapshotFault.SERVER_ERROR, 500)],
)
async def test_a_refusal_is_told_by_its_status(
    server: SnapshotServer, http: aiohttp.ClientSession, fault: SnapshotFault, status: int
) -> None:
    server.set_fault("cam-1", fault)

    assert await status_of(http, server.urls["cam-1"]) == status


async def test_a_redirect_leads_where_it_is_told(server: SnapshotServer, http: aiohttp.ClientSession) -> None:
    server.set_fault("cam-1", SnapshotFault.REDIRECT, redirect_to="http://169.254.169.254/latest")

    async with http.get(server.urls["cam-1"], allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "http://169.254.169.254/latest")


async def test_a_refusing_camera_resets_its_connections(server: SnapshotServer, http: aiohttp.ClientSession) -> None:
    await fetch(http, server.urls["cam-1"])
    server.set_fault("cam-1", SnapshotFault.REFUSE)

    await wait_until(lambda: server.connected("cam-1") == 0)
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await fetch(http, server.urls["cam-1"])


def raw(server: SnapshotServer, path: str = "/cam-1") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=SILENCE_S)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return client


async def test_a_refused_client_sees_a_tcp_reset(server: SnapshotServer) -> None:
    server.set_fault("cam-1", SnapshotFault.REFUSE)

    with raw(server) as client, pytest.raises(ConnectionResetError):
        await asyncio.to_thread(client.recv, 1)


async def test_a_hanging_camera_answers_nothing(server: SnapshotServer) -> None:
    server.set_fault("cam-1", SnapshotFault.HANG)

    with raw(server) as client, pytest.raises(TimeoutError):
        await asyncio.to_thread(client.recv, 1)


async def test_a_hung_request_is_forgotten_with_its_client(server: SnapshotServer) -> None:
    server.set_fault("cam-1", SnapshotFault.HANG)
    before = len(asyncio.all_tasks())
    clients = [raw(server) for _ in range(5)]
    await wait_until(lambda: server.connected("cam-1") == 5)
    for client in clients:
        client.close()

    await wait_until(lambda: len(asyncio.all_tasks()) == before)


async def test_a_truncated_picture_is_half_of_one(server: SnapshotServer, http: aiohttp.ClientSession) -> None:
    whole = await fetch(http, server.urls["cam-2"])
    server.set_fault("cam-1", SnapshotFault.TRUNCATED)
    half = await fetch(http, server.urls["cam-1"])

    assert half == whole[: len(whole) // 2]


@pytest.mark.parametrize("ending", ["", ".png"])
async def test_a_huge_picture_claims_100_megapixels(
    server: SnapshotServer, http: aiohttp.ClientSession, ending: str
) -> None:
    server.set_fault("cam-1", SnapshotFault.HUGE_PICTURE)
    data = await fetch(http, server.urls["cam-1"] + ending)

    assert len(data) < 1_000_000
    height_width = struct.unpack_from(">II", data, 16) if ending else simplejpeg.decode_jpeg_header(data)[:2]
    assert height_width == (10_000, 10_000)


async def test_an_endless_picture_never_ends(server: SnapshotServer, http: aiohttp.ClientSession) -> None:
    server.set_fault("cam-1", SnapshotFault.ENDLESS)
    received = 0
    async with http.get(server.urls["cam-1"]) as answer:
        async for chunk in answer.content.iter_any():
            received += len(chunk)
            if received > 20_000_000:
                break
        answer.close()

    assert received > 20_000_000
    await wait_until(lambda: server.connected("cam-1") == 0)


async def test_a_dripping_camera_gives_a_byte_each_half_second(
    server: SnapshotServer, http: aiohttp.ClientSession
) -> None:
    server.set_fault("cam-1", SnapshotFault.DRIP)
    began_s = time.monotonic()
    async with http.get(server.urls["cam-1"]) as answer:
        got = [await answer.content.readany() for _ in range(3)]
        answer.close()

    assert [len(one) for one in got] == [1, 1, 1]
    assert time.monotonic() - began_s > 0.9


async def test_a_stream_falls_silent_where_the_camera_hangs_and_goes_on_afterwards(server: SnapshotServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /cam-1.mjpeg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await reader.read(10**6)
    server.set_fault("cam-1", SnapshotFault.HANG)
    await asyncio.sleep(0.3)
    await reader.read(10**6)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SILENCE_S):
            await reader.read(1)
    server.set_fault("cam-1", None)
    async with asyncio.timeout(3):
        assert await reader.read(1)
    writer.transport.abort()


@pytest.mark.parametrize("fault", list(SnapshotFault))
async def test_a_camera_is_sound_at_once_when_its_fault_is_taken_back(
    server: SnapshotServer, http: aiohttp.ClientSession, fault: SnapshotFault
) -> None:
    server.set_fault("cam-1", fault)
    with raw(server):
        await asyncio.sleep(0.1)
        server.set_fault("cam-1", None)

        assert number_of(await fetch(http, server.urls["cam-1"])) == pytest.approx(
            server.sent("cam-1")[-1].film_s * FPS
        )


@pytest.mark.parametrize("fault", list(SnapshotFault))
async def test_the_fault_of_a_camera_leaves_another_alone(
    server: SnapshotServer, http: aiohttp.ClientSession, fault: SnapshotFault
) -> None:
    server.set_fault("cam-1", fault)
    with raw(server):
        assert number_of(await fetch(http, server.urls["cam-2"])) == 0


async def test_the_server_ends_with_its_streams(clip: Clip) -> None:
    async with SnapshotServer({"cam-1": clip}) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /cam-1.mjpeg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b"--picture")
        began_s = time.monotonic()

    assert time.monotonic() - began_s < 3
    writer.transport.abort()
