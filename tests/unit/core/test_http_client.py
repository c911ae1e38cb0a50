import asyncio
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.exceptions import MessageProcessingError
from detector_worker.core.http_client import CheckedResolver, new_session

_NO_LOOPBACK = NetworkPolicy(denied=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")))


@asynccontextmanager
async def _server(headers: dict[str, str] | None = None) -> AsyncIterator[tuple[int, list[web.Request]]]:
    """A server that greets; yields its port and what it was asked."""
    asked: list[web.Request] = []

    async def greet(request: web.Request) -> web.Response:
        asked.append(request)
        return web.Response(text="hello", headers=headers)

    app = web.Application()
    app.router.add_get("/", greet)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1], asked
    finally:
        await runner.cleanup()


async def test_a_name_is_answered_with_its_addresses() -> None:
    found = await CheckedResolver(NetworkPolicy()).resolve("localhost", 80)

    assert "127.0.0.1" in [one["host"] for one in found]
    assert {one["hostname"] for one in found} == {"localhost"}
    assert all(one["family"] == (socket.AF_INET6 if ":" in one["host"] else socket.AF_INET) for one in found)


async def test_a_name_that_leads_to_a_denied_address_is_refused() -> None:
    with pytest.raises(MessageProcessingError) as caught:
        await CheckedResolver(_NO_LOOPBACK).resolve("localhost", 80)

    assert caught.value.code == "url_refused"


async def test_a_name_that_does_not_exist_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r"."):
        await CheckedResolver(NetworkPolicy()).resolve("camera.invalid", 80)


async def test_each_connection_is_checked() -> None:
    async with _server() as (port, asked), new_session(NetworkPolicy()) as session:
        async with session.get(f"http://localhost:{port}/") as response:
            assert await response.text() == "hello"

        async with new_session(_NO_LOOPBACK) as guarded:
            with pytest.raises(MessageProcessingError):
                await guarded.get(f"http://localhost:{port}/")

    assert len(asked) == 1


async def test_cookies_are_not_kept() -> None:
    async with _server({"Set-Cookie": "session=1"}) as (port, asked), new_session(NetworkPolicy()) as session:
        for _ in range(2):
            async with session.get(f"http://127.0.0.1:{port}/") as response:
                await response.read()

    assert "Cookie" not in asked[1].headers


async def test_a_look_up_that_nobody_waits_for_any_more_is_no_error() -> None:
    task = asyncio.create_task(CheckedResolver(NetworkPolicy()).resolve("localhost", 80))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for thread in threading.enumerate():
        if thread.name == "look-up":
            await asyncio.to_thread(thread.join, 5)
