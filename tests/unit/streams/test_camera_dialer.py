import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from support.rtsp_peer import deaf_camera, parse_camera

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.exceptions import StreamError
from detector_worker.streams.camera_dialer import CameraDialer, DialedCamera


def _dial(url: str, *, policy: NetworkPolicy | None = None, given_up: threading.Event | None = None) -> DialedCamera:
    dialer = CameraDialer(
        policy or NetworkPolicy(),
        where="camera gate",
        deadline_s=time.monotonic() + (5 if given_up else 0.5),
        is_given_up=(given_up or threading.Event()).is_set,
    )
    return dialer.dial(parse_camera(url))


def _refusal(url: str, *, policy: NetworkPolicy | None = None) -> StreamError:
    with pytest.raises(StreamError) as caught:
        _dial(url, policy=policy)
    assert "canary" not in str(caught.value)
    return caught.value


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_it_connects_and_tells_where(port: int) -> None:
    camera = _dial(f"rtsp://localhost:{port}/x")

    assert camera.ip == camera.sock.getpeername()[0] == "127.0.0.1"
    assert camera.sock.getblocking() is False
    camera.sock.close()


def test_a_closed_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

    assert _refusal(f"rtsp://127.0.0.1:{port}/x").error_class == "refused"


def test_an_unknown_host_is_unreachable() -> None:
    assert _refusal("rtsp://camera.invalid/x").error_class == "unreachable"


def test_a_host_that_does_not_answer_is_unreachable_in_time() -> None:
    with deaf_camera() as port:
        started_s = time.monotonic()
        error = _refusal(f"rtsp://127.0.0.1:{port}/x")

    assert error.error_class == "unreachable"
    assert time.monotonic() - started_s < 1.5


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "224.0.0.1", "0.0.0.0"])  # noqa: S104 - never bound
def test_an_address_that_is_never_allowed_is_refused(host: str) -> None:
    error = _refusal(f"rtsp://{host}/x")

    assert error.error_class == "refused"
    assert "must not connect" in error.what
    assert "allowed_networks" in error.mend


def test_a_denied_address_is_refused_without_a_connection(port: int) -> None:
    policy = NetworkPolicy(denied=(ipaddress.ip_network("127.0.0.0/8"),))

    assert _refusal(f"rtsp://127.0.0.1:{port}/x", policy=policy).error_class == "refused"


def test_a_camera_that_does_not_speak_tls_is_a_tls_error() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"RTSP/1.0 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"rtsps://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
            assert (await asyncio.to_thread(_refusal, url)).error_class == "tls"

    asyncio.run(main())


def test_a_camera_that_leaves_tls_unanswered_is_a_timeout(port: int) -> None:
    assert _refusal(f"rtsps://127.0.0.1:{port}/x").error_class == "timeout"


def _seconds_to_give_up(url: str, *, policy: NetworkPolicy | None = None) -> float:
    given_up, errors = threading.Event(), list[StreamError]()

    def work() -> None:
        with pytest.raises(StreamError) as caught:
            _dial(url, given_up=given_up, policy=policy)
        errors.append(caught.value)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)  # it is in the midst of waiting
    given_up.set()
    started_s = time.monotonic()
    thread.join()
    assert [error.error_class for error in errors] == ["ended"]
    return time.monotonic() - started_s


def test_it_gives_up_at_once_while_connecting() -> None:
    with deaf_camera() as port:
        assert _seconds_to_give_up(f"rtsp://127.0.0.1:{port}/x") < 0.5


def test_it_gives_up_at_once_in_the_tls_handshake(port: int) -> None:
    assert _seconds_to_give_up(f"rtsps://127.0.0.1:{port}/x") < 0.5


def test_it_gives_up_at_once_while_a_name_is_looked_up() -> None:
    hanging = threading.Event()

    class HangingPolicy(NetworkPolicy):
        """As if the name server did not answer."""

        def permits(self, ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
            return hanging.wait(5)

    assert _seconds_to_give_up("rtsp://localhost/x", policy=HangingPolicy()) < 0.5
    hanging.set()
