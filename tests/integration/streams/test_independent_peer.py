"""Cameras that others wrote: a server that knows only UDP, GStreamer's, and TLS in front of our own."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Literal

import av
import pytest
from support.rtsp_peer import parse_camera
from support.tiny_clip import TinyClip, read_frame_number

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import StreamError
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film
from detector_worker.streams.camera_link import CameraLinks
from detector_worker.streams.frame_reader import RTSPReader

_FPS = 20


def _numbers(
    url: str, count: int, *, transport: Literal["udp"] | None = None, verify_certificates: bool = False
) -> list[int]:
    """Read the numbers of so many pictures."""
    with closing(CameraLinks()) as links:
        reader = RTSPReader(
            parse_camera(url),
            "gate",
            threading.Event(),
            clock=SystemClock(),
            policy=NetworkPolicy(verify_certificates=verify_certificates),
            links=links,
            transport=transport,
        )
        with closing(reader):
            reader.connect()
            return [read_frame_number(frame.bgr()) for _ in range(count) if (frame := reader.read_frame())]


@contextmanager
def _rtsp_rs(film: TinyClip) -> Iterator[str]:
    """Show a film with the server of the `rtsp` package."""
    rtsp = pytest.importorskip("rtsp", reason="no wheel of rtsp-rs for this platform")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = rtsp.Server(f"127.0.0.1:{port}")
    server.start()
    stopping = threading.Event()
    pictures = [b"".join(bytes(packet) for packet in encoded) for encoded in _encoded(film)]

    def publish() -> None:
        while not stopping.is_set():
            for picture in pictures:
                server.send_frame(picture, 90_000 // _FPS)
                if stopping.wait(1 / _FPS):
                    return

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield f"rtsp://127.0.0.1:{port}/stream"
    finally:
        stopping.set()
        thread.join()
        server.stop()


def _encoded(film: TinyClip) -> Iterator[list["av.Packet[av.VideoStream]"]]:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = film.wh
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, _FPS), Fraction(_FPS)
    encoder.gop_size = 10
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency"}
    with av.open(str(film.path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            frame.pts, frame.time_base = number, encoder.time_base
            frame.pict_type = av.video.frame.PictureType.NONE
            yield list(encoder.encode(frame))


def test_a_server_that_knows_only_udp_is_read_in_order(film: TinyClip) -> None:
    with _rtsp_rs(film) as url:
        numbers = _numbers(url, 60)

    steps = [(after - before) % film.frames for before, after in pairwise(numbers)]
    assert steps.count(1) >= 57  # UDP may lose one


_GSTREAMER = """
import sys, gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server, factory = GstRtspServer.RTSPServer.new(), GstRtspServer.RTSPMediaFactory.new()
server.set_address("127.0.0.1")
server.set_service("0")
factory.set_launch(f"( filesrc location={sys.argv[1]} ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 )")
server.get_mount_points().add_factory("/film", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@contextmanager
def _gstreamer(film: TinyClip) -> Iterator[str]:
    """Show a film once with GStreamer's server, in the system's own Python, which has its bindings or nobody has."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("there is no Python of the system")
    with subprocess.Popen(
        [python, "-c", _GSTREAMER, film.path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        if not port:
            pytest.skip("GStreamer's RTSP server is not installed (gir1.2-gst-rtsp-server-1.0, python3-gi)")
        try:
            yield f"rtsp://127.0.0.1:{port}/film"
        finally:
            server.kill()


@pytest.mark.parametrize("transport", [None, "udp"])
def test_gstreamer_s_server_is_read_in_order(film: TinyClip, transport: Literal["udp"] | None) -> None:
    with _gstreamer(film) as url:
        numbers = _numbers(url, 30, transport=transport)

    assert [after - before for before, after in pairwise(numbers)].count(1) >= (29 if transport is None else 27)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed one, as cameras have them: certificate and key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "camera.crt", folder / "camera.key"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=camera", "-days", "1"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


@asynccontextmanager
async def _tls_in_front_of(port: int, certificate: tuple[Path, Path]) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    tasks = set[asyncio.Task[None]]()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        camera_reader, camera_writer = await asyncio.open_connection("127.0.0.1", port)
        pipes = [pipe(reader, camera_writer), pipe(camera_reader, writer)]
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await asyncio.gather(*pipes)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listening:
        yield listening.sockets[0].getsockname()[1]
        await asyncio.gather(*tasks)


async def test_a_camera_with_a_certificate_of_its_own_is_read_over_tls(
    film: TinyClip, certificate: tuple[Path, Path]
) -> None:
    async with RtspServer(same_film(Clip.load(film.path))) as camera:
        camera.set_credentials("cam-1", "viewer", "canary-password")
        async with _tls_in_front_of(camera.port, certificate) as port:
            numbers = await asyncio.to_thread(_numbers, f"rtsps://127.0.0.1:{port}/cam-1", 50)
            with pytest.raises(StreamError) as refused:
                await asyncio.to_thread(_numbers, f"rtsps://127.0.0.1:{port}/cam-1", 1, verify_certificates=True)

    assert refused.value.error_class == "tls"
    assert all((after - before) % film.frames == 1 for before, after in pairwise(numbers))
