"""Passwords over the wire: FFmpeg's own digest, and what must be refused."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator

import av
import pytest
from support.rtsp_client import RtspClient, watch
from support.tiny_clip import write_tiny_clip

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.credentials import Credentials, Scheme
from detector_worker.simulator.rtsp_server import RtspServer, same_film


@pytest.fixture
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RtspServer]:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clip = await asyncio.to_thread(lambda: Clip.load(write_tiny_clip(path, seconds=1).path))
    async with RtspServer(same_film(clip)) as running:
        yield running


@pytest.mark.parametrize("scheme", ["basic", "digest"])
async def test_ffmpeg_gets_in_with_the_right_password_alone(server: RtspServer, scheme: Scheme) -> None:
    server.set_credentials("cam-1", "me", "p@ss", scheme=scheme)
    right, wrong = (server.urls["cam-1"].replace("://", f"://me:{word}@") for word in ("p%40ss", "p%40st"))

    assert len(await asyncio.to_thread(watch, right, 5)) == 5
    for url in (wrong, server.urls["cam-1"]):
        with pytest.raises(av.HTTPUnauthorizedError):
            await asyncio.to_thread(watch, url, 1)


async def test_every_request_is_asked_for_the_password(server: RtspServer) -> None:
    server.set_credentials("cam-1", "me", "it")
    client = await RtspClient.connect(server.urls["cam-1"])

    for method in ("OPTIONS", "DESCRIBE", "SETUP", "PLAY"):
        status, head = await client.ask(method)
        assert status == 401
        assert re.search('WWW-Authenticate: Digest realm="camera", nonce="[0-9a-f]{32}"', head)
    client.close()


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def answer(credentials: Credentials, **changes: str) -> str:
    """Answer a challenge to GET /cam as RFC 2617 says, written apart from the server."""
    nonce = re.search('nonce="(.*?)"', credentials.challenge["WWW-Authenticate"])
    assert nonce
    given = {"username": "me", "realm": "camera", "nonce": nonce[1], "uri": "/cam"} | changes
    middle = f"{given['nonce']}:"
    if "qop" in given:
        middle += f"{given['nc']}:{given['cnonce']}:{given['qop']}:"
    secret = md5(f"{given['username']}:{given['realm']}:it")
    given["response"] = md5(f"{secret}:{middle}{md5('GET:' + given['uri'])}")
    return "Digest " + ", ".join(f'{name}="{value}"' for name, value in given.items())


def test_a_digest_may_have_qop_or_not() -> None:
    credentials = Credentials("me", "it")

    assert credentials.accepts("GET", "/cam", answer(credentials))
    assert credentials.accepts("GET", "/cam", answer(credentials, qop="auth", nc="00000001", cnonce="ab"))


@pytest.mark.parametrize(
    ("method", "uri", "changes"),
    [
        ("PUT", "/cam", {}),
        ("GET", "/other", {}),
        ("GET", "/cam", {"uri": "/other"}),
        ("GET", "/cam", {"nonce": "0" * 32}),
        ("GET", "/cam", {"username": "you"}),
        ("GET", "/cam", {"realm": "door"}),
    ],
)
def test_a_digest_for_something_else_is_refused(method: str, uri: str, changes: dict[str, str]) -> None:
    credentials = Credentials("me", "it")

    assert not credentials.accepts(method, uri, answer(credentials, **changes))


@pytest.mark.parametrize("header", ["", "Digest", "Basic !", "Basic " + base64.b64encode(b"me:no").decode()])
def test_what_is_no_password_is_refused(header: str) -> None:
    assert not Credentials("me", "it").accepts("GET", "/cam", header)
    assert not Credentials("me", "it", "basic").accepts("GET", "/cam", header)


def test_a_basic_password_does_not_do_for_digest() -> None:
    header = "Basic " + base64.b64encode(b"me:it").decode()

    assert Credentials("me", "it", "basic").accepts("GET", "/cam", header)
    assert not Credentials("me", "it").accepts("GET", "/cam", header)


def test_a_password_is_not_shown() -> None:
    assert "canary" not in repr(Credentials("me", "canary"))
