from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from support.serving import Worker, ask, error_of, hear, serving, subscription
from websockets.asyncio.client import ClientConnection, connect

# One worker and one client for all: a refusal changes nothing.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker() -> AsyncIterator[Worker]:
    async with serving() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(worker: Worker) -> AsyncIterator[ClientConnection]:
    async with connect(worker.ws_url) as connected:
        yield connected


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"subscriptionIdentifier": "desk"}, "invalid_field", "subscriptionIdentifier"),
        ({"subscriptionIdentifier": ";gate"}, "invalid_field", "subscriptionIdentifier"),
        ({"subscriptionIdentifier": "a;b;c"}, "invalid_field", "subscriptionIdentifier"),
        ({"subscriptionIdentifier": "desk;ga\nte"}, "invalid_field", "subscriptionIdentifier"),
        ({"subscriptionIdentifier": "d" * 500 + ";c"}, "invalid_field", "subscriptionIdentifier"),
        ({"modelUrl": None}, "invalid_field", "modelUrl"),
        ({"modelUrl": ""}, "invalid_field", "modelUrl"),
        ({"modelUrl": "ftp://10.0.0.1/a.mpta"}, "url_refused", "modelUrl"),
        ({"modelUrl": "http://169.254.169.254/a.mpta"}, "url_refused", "modelUrl"),
        ({"rtspUrl": None}, "invalid_field", "rtspUrl"),
        ({"rtspUrl": ""}, "invalid_field", "rtspUrl"),
        ({"rtspUrl": 5}, "invalid_field", "rtspUrl"),
        ({"rtspUrl": "file:///etc/passwd"}, "url_refused", "rtspUrl"),
        ({"rtspUrl": "rtsp://x:Kanarienvogel@0xa9fea9fe/"}, "url_refused", "rtspUrl"),
        ({"snapshotUrl": "http://[::ffff:169.254.169.254]/"}, "url_refused", "snapshotUrl"),
        ({"snapshotUrl": "rtsp://10.0.0.7/"}, "url_refused", "snapshotUrl"),
        ({"snapshotInterval": 1}, "invalid_field", "snapshotInterval"),
        ({"targetFps": 0}, "invalid_field", "targetFps"),
        ({"targetFps": "fast"}, "invalid_field", "targetFps"),
        ({"targetFps": True}, "invalid_field", "targetFps"),
        ({"modelId": {"a": 1}}, "invalid_field", "modelId"),
        ({"modelId": True}, "invalid_field", "modelId"),
        ({"cropX1": 1}, "invalid_field", "cropY1"),
        ({"cropX1": 9, "cropY1": 0, "cropX2": 9, "cropY2": 9}, "invalid_field", "cropX2"),
        ({"cropX1": 0, "cropY1": 5, "cropX2": 9, "cropY2": -9}, "invalid_field", "cropY2"),
        ({"liveDetections": "yes"}, "invalid_field", "liveDetections"),
        ({"options": {"transport": "smoke"}}, "invalid_field", "options"),
        ({"options": {"decode": "all"}}, "invalid_field", "options"),
        ({"detectUrl": "http://10.0.0.7/low"}, "url_refused", "detectUrl"),
        ({"detectUrl": "rtsp://169.254.169.254/low"}, "url_refused", "detectUrl"),
        ({"options": {"frozenAfterSeconds": 0}}, "invalid_field", "options"),
        ({"resumeFrom": 3}, "invalid_field", "resumeFrom"),
    ],
)
async def test_a_wrong_field_is_named_and_changes_nothing(
    worker: Worker, client: ClientConnection, changes: dict[str, Any], code: str, field: str
) -> None:
    reply = await ask(client, "subscribe", subscription(**changes), requestId=7)

    assert (reply["type"], reply["requestId"]) == ("subscribeAck", 7)
    assert error_of(reply) == (code, field)
    assert "Kanarienvogel" not in str(reply)
    assert not worker.engine.held


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nonsense", "invalid_json"),
        ("[1, 2]", "invalid_json"),
        ('"subscribe"', "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, "invalid_json"),
        (b'{"type": "requestState"}', "invalid_json"),
        ('{"type": "requestState", "pad": "' + "x" * 1_048_576 + '"}', "too_large"),
        ('{"payload": {}}', "invalid_field"),
        ('{"type": 5}', "invalid_field"),
        ('{"type": "requestState", "payload": [1]}', "invalid_field"),
        ('{"type": "requestState", "requestId": {"a": 1}}', "invalid_field"),
        ('{"type": "dance"}', "unknown_type"),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_stays(
    client: ClientConnection, text: str | bytes, code: str
) -> None:
    await client.send(text)

    assert error_of(await hear(client))[0] == code
    assert (await ask(client, "requestState"))["type"] == "stateReport"


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"sessionId": 1}, "displayIdentifier"),
        ({"displayIdentifier": "desk"}, "sessionId"),
        ({"displayIdentifier": "desk", "sessionId": True}, "sessionId"),
        ({"displayIdentifier": "desk", "sessionId": [1]}, "sessionId"),
        ({"displayIdentifier": "desk", "sessionId": "x" * 201}, "sessionId"),
    ],
)
async def test_a_session_without_display_or_value_is_refused(
    worker: Worker, client: ClientConnection, payload: dict[str, object], field: str
) -> None:
    assert error_of(await ask(client, "setSessionId", payload)) == ("invalid_field", field)
    assert not worker.engine.sessions
