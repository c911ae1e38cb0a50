import asyncio
import base64
import hashlib
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from support.http_cameras import NO_LOOPBACK, Answer, encoded, http_camera, new_reader, raw_camera, read
from support.unread_file import unread_file

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.exceptions import StreamError
from detector_worker.streams.snapshot_reader import HTTPSnapshotReader

_WITH_LOGIN = "http://viewer:p%40ss%3Aword@127.0.0.1:{port}/shot?channel=1"
_USER, _PASSWORD = "viewer", "p@ss:word"

_KEY = """
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgYdKNMcNaiEO7NlBd6O5kaTdbGCl+dEx7MpkT+a2AgZWhRANCAATvyPGhMyppQoagZo2Z
UO1n9jzveEv/b6Yrk03gFXSRhayjR65RzMezF03LRL+M8UAiUCm455nhNbIjyoRNISIg
"""
_CERTIFICATE = """
MIIBlDCCATugAwIBAgIUa9aNFYBGuQH6zjBtHckQ4TOq3hgwCgYIKoZIzj0EAwIwETEPMA0GA1UEAwwGY2FtZXJhMCAXDTI2MTEyNTEzNTQzN1oYDzIx
MjYxMTAxMTM1NDM3WjARMQ8wDQYDVQQDDAZjYW1lcmEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATvyPGhMyppQoagZo2ZUO1n9jzveEv/b6Yrk03g
FXSRhayjR65RzMezF03LRL+M8UAiUCm455nhNbIjyoRNISIgo28wbTAdBgNVHQ4EFgQUPoT8Pk0cgf92kg21SjH1XvfroEUwHwYDVR0jBBgwFoAUPoT8
Pk0cgf92kg21SjH1XvfroEUwDwYDVR0TAQH/BAUwAwEB/zAaBgNVHREEEzARhwR/AAABgglsb2NhbGhvc3QwCgYIKoZIzj0EAwIDRwAwRAIgX9aqsSbE
WSoypumYv5Voy7HAgpJ+YH1No5qSJDIqrZkCIC4rzZGh/H2IDcZmewVwF9/hCh8Dod+XQtZwniXvxIIE
"""
"""A camera's self-signed certificate for 127.0.0.1, made for this test and known to nobody else."""


async def _picture(_: web.Request) -> web.StreamResponse:
    return web.Response(body=encoded())


async def _error_of(reader: HTTPSnapshotReader) -> StreamError:
    with pytest.raises(StreamError) as caught:
        await read(reader)
    return caught.value


def _redirecting(location: str, *, status: int = 302) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": location})

    return answer


def _wants_basic(accepted: list[str]) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic" or base64.b64decode(given).decode() != f"{_USER}:{_PASSWORD}":
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="camera"'}, text="x" * 500)
        accepted.append(given)
        return web.Response(body=encoded(grey=10 * len(accepted)))

    return answer


def _wants_digest(accepted: list[str], *, known: str = _PASSWORD, first: str = "") -> Answer:
    """RFC 2617 with MD5 and qop=auth, as most cameras have it."""

    def md5(text: str) -> str:
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    async def answer(request: web.Request) -> web.StreamResponse:
        header = request.headers.get("Authorization", "")
        given = dict(re.findall(r'(\w+)="?([^",]+)', header))
        secret = md5(f"{_USER}:camera:{known}")
        asked = md5(f"GET:{request.raw_path}")
        proof = ":".join((secret, "n1", given.get("nc", ""), given.get("cnonce", ""), "auth", asked))
        if not header.startswith("Digest ") or given.get("response") != md5(proof):
            challenge = 'Digest realm="camera", nonce="n1", qop="auth", algorithm=MD5' + first
            return web.Response(status=401, headers={"WWW-Authenticate": challenge}, text="x" * 500)
        accepted.append(header)
        return web.Response(body=encoded(grey=10 * len(accepted)))

    return answer


@pytest.mark.parametrize("wants", [_wants_basic, _wants_digest])
async def test_the_camera_gets_user_and_password_as_it_asks_for_them(wants: Callable[[list[str]], Answer]) -> None:
    accepted: list[str] = []
    async with http_camera(wants(accepted)) as camera:
        frames = await read(new_reader(camera.port, url=_WITH_LOGIN), 3)

    assert len(frames) == len(accepted) == 3
    assert len(camera.requests) == 4  # it had to ask only once
    assert len(camera.connections) == 1


async def test_a_refusal_that_is_slow_to_end_needs_no_second_connection() -> None:
    accepted: list[str] = []
    lets_in = _wants_digest(accepted)

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await lets_in(request)
        if response.status == 200:
            return response
        slow = web.StreamResponse(status=401, headers={"WWW-Authenticate": response.headers["WWW-Authenticate"]})
        await slow.prepare(request)
        await asyncio.sleep(0.1)
        await slow.write(b"Not without a password")
        return slow

    async with http_camera(answer) as camera:
        assert len(await read(new_reader(camera.port, url=_WITH_LOGIN))) == 1

    assert len(camera.connections) == 1


async def test_a_camera_that_asks_for_nothing_gets_no_password() -> None:
    async with http_camera(_picture) as camera:
        await read(new_reader(camera.port, url=_WITH_LOGIN))

    assert "Authorization" not in camera.requests[0].headers


async def test_a_digest_camera_never_sees_the_password_itself() -> None:
    async with http_camera(_wants_digest([], first=', Basic realm="camera"', known="other")) as camera:
        error = await _error_of(new_reader(camera.port, url=_WITH_LOGIN))

    assert error.error_class == "authentication"
    assert not [one for one in camera.requests if one.headers.get("Authorization", "").startswith("Basic")]


async def test_a_wrong_password_is_an_authentication_error() -> None:
    async with http_camera(_wants_basic([])) as camera:
        error = await _error_of(new_reader(camera.port, url="http://viewer:canary@127.0.0.1:{port}/"))

    assert error.error_class == "authentication"
    assert "canary" not in str(error)
    assert len(camera.requests) == 2


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        (401, "authentication"),
        (403, "authentication"),
        (404, "not_found"),
        (410, "not_found"),
        (304, "refused"),
        (418, "refused"),
        (503, "refused"),
    ],
)
async def test_a_status_has_its_class(status: int, error_class: str) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with http_camera(refuse) as camera:
        error = await _error_of(new_reader(camera.port))

    assert error.error_class == error_class
    assert str(status) in error.what


@pytest.mark.parametrize("location", ["/moved", "moved?x=1", "http://localhost:{port}/moved"])
async def test_a_redirect_is_followed(location: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/moved":
            return await _picture(request)
        return web.Response(status=307, headers={"Location": location.format(port=camera.port)}, text="moved")

    async with http_camera(answer) as camera:
        assert len(await read(new_reader(camera.port))) == 1


async def test_a_fourth_redirect_is_not_followed() -> None:
    async with http_camera(_redirecting("/again")) as camera:
        error = await _error_of(new_reader(camera.port))

    assert error.error_class == "refused"
    assert "more than 3 times" in error.what
    assert len(camera.requests) == 4


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254, where this worker must not connect"),
        ("http://[fd00:ec2::254]/", "must not connect"),
        ("http://2852039166/", "169.254.169.254, where this worker must not connect"),
        ("//0/", "must not connect"),
        ("file:///etc/passwd", "scheme file is not allowed"),
        ("rtsp://127.0.0.1/", "scheme rtsp is not allowed"),
        ("gopher:x", "no URL"),
        ("http://[bad/", "no URL"),
        ("http://a b/", "no URL"),
        ("http://user:canary@169.254.169.254/", "must not connect"),
    ],
)
async def test_a_redirect_to_where_nobody_may_go_is_refused(location: str, words: str) -> None:
    async with http_camera(_redirecting(location)) as camera:
        error = await _error_of(new_reader(camera.port))

    assert error.error_class == "refused"
    assert words in error.what
    assert "canary" not in str(error)
    assert len(camera.requests) == 1


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    with unread_file(tmp_path) as path:
        yield path


@pytest.mark.parametrize(
    "body",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://%s\n#EXT-X-ENDLIST\n",
        b"v=0\r\no=- 1 1 IN IP4 0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=control:file://%s\r\n",
        b"ffconcat version 1.0\nfile %s\n",
    ],
)
@pytest.mark.parametrize("kind", ["image/jpeg", "application/vnd.apple.mpegurl", "application/sdp"])
async def test_an_answer_that_names_a_local_file_is_no_picture_and_the_file_stays_unread(
    secret: Path, body: bytes, kind: str
) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body % str(secret).encode(), content_type=kind)

    async with http_camera(answer) as camera:
        error = await _error_of(new_reader(camera.port))

    assert error.error_class == "codec"


async def test_no_other_port_of_the_host_gets_the_credentials() -> None:
    async def ask_for_them(_: web.Request) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="thief"'})

    async with http_camera(ask_for_them) as thief:
        domain = f', domain="http://127.0.0.1:{thief.port}/"'
        accepted: list[str] = []
        lets_in = _wants_digest(accepted, first=domain)

        async def answer(request: web.Request) -> web.StreamResponse:
            response = await lets_in(request)
            if response.status == 200:
                return web.Response(status=302, headers={"Location": f"http://127.0.0.1:{thief.port}/shot"})
            return response

        async with http_camera(answer) as camera:
            error = await _error_of(new_reader(camera.port, url=_WITH_LOGIN))

    assert error.error_class == "authentication"
    assert accepted
    assert len(thief.requests) == 1
    assert "Authorization" not in thief.requests[0].headers


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", "2130706433"])
async def test_a_host_that_leads_to_a_denied_network_is_not_connected_to(host: str) -> None:
    async with http_camera(_picture) as camera:
        url = f"http://{host}:{{port}}/shot"
        error = await _error_of(new_reader(camera.port, url=url, policy=NO_LOOPBACK))

    assert error.error_class == "refused"
    assert "127.0.0.1" in error.what or "::1" in error.what
    assert "allowed_networks" in error.mend
    assert camera.connections == set()


async def test_a_name_leads_to_the_camera() -> None:
    async with http_camera(_picture) as camera:
        assert len(await read(new_reader(camera.port, url="http://localhost:{port}/"))) == 1


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    pem = tmp_path / "camera.pem"
    kinds = (("PRIVATE KEY", _KEY), ("CERTIFICATE", _CERTIFICATE))
    pem.write_text("".join(f"-----BEGIN {kind}-----{text}-----END {kind}-----\n" for kind, text in kinds))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pem)
    return tls


async def test_a_certificate_that_nobody_vouches_for_is_a_tls_error_where_certificates_count(
    self_signed: ssl.SSLContext,
) -> None:
    async with http_camera(_picture, tls=self_signed) as camera:
        error = await _error_of(new_reader(camera.port, url="https://127.0.0.1:{port}/"))

    assert error.error_class == "tls"
    assert camera.requests == []


async def test_a_camera_with_a_certificate_of_its_own_is_read_where_they_do_not(self_signed: ssl.SSLContext) -> None:
    policy = NetworkPolicy(verify_certificates=False)
    async with http_camera(_picture, tls=self_signed) as camera:
        assert len(await read(new_reader(camera.port, url="https://127.0.0.1:{port}/", policy=policy))) == 1


async def test_https_to_a_camera_without_tls_is_a_tls_error() -> None:
    async with http_camera(_picture) as camera:
        error = await _error_of(new_reader(camera.port, url="https://127.0.0.1:{port}/"))

    assert error.error_class == "tls"


@pytest.mark.parametrize("wants", [_wants_basic, _wants_digest])
async def test_the_credentials_go_along_where_the_camera_moves_into_tls(
    self_signed: ssl.SSLContext, wants: Callable[[list[str]], Answer]
) -> None:
    policy, accepted = NetworkPolicy(verify_certificates=False), list[str]()
    async with http_camera(wants(accepted), tls=self_signed) as inner:
        to_tls = _redirecting(f"https://127.0.0.1:{inner.port}/shot")
        async with http_camera(to_tls) as outer:
            frames = await read(new_reader(outer.port, url=_WITH_LOGIN, policy=policy), 2)

    assert len(frames) == len(accepted) == 2
    assert not [one for one in outer.requests if "Authorization" in one.headers]


async def test_the_credentials_do_not_go_along_into_the_tls_of_another_host(self_signed: ssl.SSLContext) -> None:
    policy = NetworkPolicy(verify_certificates=False)
    async with (
        http_camera(_wants_basic([]), tls=self_signed) as other,
        http_camera(_redirecting(f"https://localhost:{other.port}/shot")) as camera,
    ):
        error = await _error_of(new_reader(camera.port, url=_WITH_LOGIN, policy=policy))

    assert error.error_class == "authentication"
    assert other.requests
    assert not [one for one in other.requests if "Authorization" in one.headers]


async def test_the_credentials_do_not_go_out_of_tls(self_signed: ssl.SSLContext) -> None:
    policy, accepted = NetworkPolicy(verify_certificates=False), list[str]()
    lets_in = _wants_basic(accepted)
    async with http_camera(_wants_basic([])) as plain:

        async def answer(request: web.Request) -> web.StreamResponse:
            response = await lets_in(request)
            if response.status == 200:
                return web.Response(status=302, headers={"Location": f"http://127.0.0.1:{plain.port}/shot"})
            return response

        async with http_camera(answer, tls=self_signed) as camera:
            url = _WITH_LOGIN.replace("http:", "https:")
            error = await _error_of(new_reader(camera.port, url=url, policy=policy))

    assert error.error_class == "authentication"
    assert accepted
    assert plain.requests
    assert not [one for one in plain.requests if "Authorization" in one.headers]


async def test_an_endless_refusal_is_not_read() -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 99999999999\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with raw_camera(endless) as port:
        error = await _error_of(new_reader(port, timeout_s=10))

    assert "more than 3 times" in error.what
