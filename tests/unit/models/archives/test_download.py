import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from support.loading import new_loader
from support.tiny_models import write_tiny_mpta

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.exceptions import DetectorWorkerError, ModelLoadError
from detector_worker.models.archives.unpacking import ArchiveLimits

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """A real HTTP server on a free port; yields its address."""
    application = web.Application()
    application.router.add_get("/{name}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    return write_tiny_mpta(tmp_path / "source.mpta").read_bytes()


def answering(response: bytes | int) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=response) if isinstance(response, bytes) else web.Response(status=response)

    return handler


async def test_an_archive_is_downloaded_and_loaded(tmp_path: Path, archive: bytes) -> None:
    async with server(answering(archive)) as address:
        pipeline = await new_loader(tmp_path / "cache").load_from_url(f"{address}/a.mpta?token=canary")

    assert pipeline.config.model_id == "tiny_squares_v1"
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [pipeline.sha256]


async def test_a_name_is_resolved_once_and_through_the_guard(tmp_path: Path, archive: bytes) -> None:
    async with server(answering(archive)) as address:
        url = address.replace("127.0.0.1", "localhost") + "/a.mpta"
        assert (await new_loader(tmp_path / "cache").load_from_url(url)).models

        policy = NetworkPolicy(denied=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")))
        with pytest.raises(DetectorWorkerError, match="must not connect"):
            await new_loader(tmp_path / "cache", network_policy=policy).load_from_url(url)


@pytest.mark.parametrize("status", [404, 500])
async def test_another_answer_than_the_archive_is_an_error_without_secrets(tmp_path: Path, status: int) -> None:
    async with server(answering(status)) as address:
        url = address.replace("http://", "http://user:canary@") + "/a.mpta?token=canary"
        with pytest.raises(ModelLoadError, match=f"answered {status}") as caught:
            await new_loader(tmp_path / "cache").load_from_url(url)

    assert "canary" not in str(caught.value)


async def test_a_redirect_is_not_followed(tmp_path: Path, archive: bytes) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/moved.mpta":
            raise web.HTTPFound("/a.mpta")
        return web.Response(body=archive)

    async with server(handler) as address:
        with pytest.raises(ModelLoadError, match="answered 302"):
            await new_loader(tmp_path / "cache").load_from_url(f"{address}/moved.mpta")


async def test_an_endless_archive_is_cut_off(tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))

    async with server(endless) as address:
        loader = new_loader(tmp_path / "cache", limits=ArchiveLimits(archive_bytes=1 << 20))
        with pytest.raises(ModelLoadError, match="larger than 1 MiB"):
            await loader.load_from_url(f"{address}/a.mpta")

    assert list((tmp_path / "cache").iterdir()) == []


async def test_a_dripping_server_is_given_up(tmp_path: Path) -> None:
    async def dripping(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.02)

    async with server(dripping) as address:
        with pytest.raises(ModelLoadError, match=r"within 0\.3 s"):
            await new_loader(tmp_path / "cache", download_timeout_s=0.3).load_from_url(f"{address}/a.mpta")


async def test_a_server_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    async with server(answering(200)) as address:
        pass

    with pytest.raises(ModelLoadError, match="cannot be downloaded"):
        await new_loader(tmp_path / "cache").load_from_url(f"{address}/a.mpta")
