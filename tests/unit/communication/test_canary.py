from pathlib import Path
from typing import Any

import orjson
from support.logs import own_logging
from support.serving import Settings, ask, hear, result, serving, subscription
from websockets.asyncio.client import connect

from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.exceptions import ModelLoadError
from detector_worker.utils.logging import setup_logging

CANARY = "Kanarienvogel"
URLS: tuple[dict[str, Any], ...] = (
    {"rtspUrl": f"rtsp://{CANARY}:{CANARY}@10.0.0.7/s?token={CANARY}"},
    {"rtspUrl": f"rtsp://admin:{CANARY}@169.254.169.254/s"},
    {"rtspUrl": f"rtsp://admin:{CANARY}/x@10.0.0.7/s"},
    {"rtspUrl": f"gopher://admin:{CANARY}@10.0.0.7/s"},
    {"rtspUrl": f"rtsp://admin:{CANARY}\n@10.0.0.7/s"},
    {"rtspUrl": [f"rtsp://admin:{CANARY}@10.0.0.7/s"]},
    {"snapshotUrl": f"http://10.0.0.7/user=admin_password={CANARY}.jpg"},
    {"modelUrl": f"https://u:{CANARY}@10.0.0.7:99999/a.mpta"},
)


async def test_no_password_of_an_address_comes_back_or_is_logged(tmp_path: Path) -> None:
    heard = []
    with own_logging():
        setup_logging("DEBUG", folder=tmp_path)
        async with serving(Settings(tokens=(CANARY,))) as worker:
            headers = {"Authorization": f"Bearer {CANARY}"}
            async with connect(worker.ws_url, additional_headers=headers) as client:
                for number, url in enumerate(URLS):
                    payload = subscription(f"desk;{number}", **url)
                    heard.append(await ask(client, "subscribe", payload, requestId=number))
                worker.engine.fail_with = ModelLoadError("No ZIP", where="front.mpta", mend="Pack it.")
                heard.append(await ask(client, "subscribe", subscription("desk;x", **URLS[0])))
                worker.engine.fail_with = RuntimeError("a bug")
                heard.append(await ask(client, "subscribe", subscription("desk;x", **URLS[0])))
                worker.handler.on_stream_status(("desk;0",), StreamStatus("0", StreamState.ERROR, "refused"))
                worker.handler.on_result(result(subscription_id="desk;0"))
                heard += [await hear(client), await hear(client), await ask(client, "requestState")]

    assert [message["status"] for message in heard[:3]] == ["success", "error", "error"]
    assert CANARY not in orjson.dumps(heard).decode()
    log = (tmp_path / "detector_worker.log").read_text()
    assert "RuntimeError: a bug" in log
    assert "[accepted]" in log
    assert CANARY not in log
