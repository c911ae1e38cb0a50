import base64

import aiohttp
import pytest
from support.serving import Settings, ask, serving
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from detector_worker.communication.access import RateLimit
from detector_worker.communication.websocket_handler import ConnectionLimits

TOKEN = "Kanarienvogel-token-1"  # noqa: S105 - a canary
ODD_TOKEN = "päss wörd/="  # noqa: S105 - a canary


def encoded(token: str) -> str:
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


async def status_of_refusal(url: str, **options: object) -> int:
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, **options)  # type: ignore[arg-type] # handed through
    assert TOKEN not in str(caught.value.response.headers)
    return caught.value.response.status_code


async def test_without_the_token_the_socket_is_refused_with_a_true_401() -> None:
    ours, wrong = Subprotocol("detector.v1"), Subprotocol("bearer.wrong")
    async with serving(Settings(tokens=(TOKEN,))) as worker:
        for authorization in ("Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer ", f"Bearer {TOKEN[:-1]}"):
            headers = {"Authorization": authorization}
            assert await status_of_refusal(worker.ws_url, additional_headers=headers) == 401
        for subprotocols in (None, [ours], [ours, wrong], [Subprotocol(TOKEN)]):
            assert await status_of_refusal(worker.ws_url, subprotocols=subprotocols) == 401
        assert len(worker.connections) == 0


async def test_a_bearer_header_lets_in() -> None:
    async with (
        serving(Settings(tokens=("another-one", TOKEN))) as worker,
        connect(worker.ws_url, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as client,
    ):
        assert (await ask(client, "requestState"))["status"] == "success"


async def test_a_browser_brings_its_token_as_a_subprotocol_which_is_never_echoed() -> None:
    async with serving(Settings(tokens=(TOKEN, ODD_TOKEN))) as worker:
        for word in (TOKEN, encoded(TOKEN), encoded(ODD_TOKEN)):
            offered = [Subprotocol("detector.v1"), Subprotocol(f"bearer.{word}")]
            async with connect(worker.ws_url, subprotocols=offered) as client:
                assert client.subprotocol == "detector.v1"


async def test_a_foreign_page_is_refused_with_403_and_a_listed_one_is_not() -> None:
    async with serving(Settings(origins=("https://desk.example",))) as worker:
        for origin in ("https://evil.example", "null", "http://desk.example", "http://[bad"):
            assert await status_of_refusal(worker.ws_url, origin=Origin(origin)) == 403
        for origin in ("https://desk.example", f"http://127.0.0.1:{worker.port}"):
            async with connect(worker.ws_url, origin=Origin(origin)) as client:
                assert (await ask(client, "requestState"))["status"] == "success"


async def test_a_name_that_was_made_to_lead_here_is_not_the_workers_own_page() -> None:
    async with serving() as worker, aiohttp.ClientSession() as http:
        rebound = {"Host": f"evil.example:{worker.port}", "Origin": f"http://evil.example:{worker.port}"}
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await http.ws_connect(worker.ws_url, headers=rebound)

    assert caught.value.status == 403


async def test_more_clients_than_permitted_are_refused_with_503() -> None:
    async with (
        serving(Settings(limits=ConnectionLimits(max_connections=1))) as worker,
        connect(worker.ws_url) as client,
    ):
        await ask(client, "requestState")
        assert await status_of_refusal(worker.ws_url) == 503


def test_a_rate_limit_lets_a_burst_pass_and_then_the_average() -> None:
    limit = RateLimit(per_second=5)

    assert [limit.allows(100.0) for _ in range(11)] == [True] * 10 + [False]
    assert [limit.allows(101.0) for _ in range(6)] == [True] * 5 + [False]
    assert not limit.allows(101.1)
