"""One visit through a real archive, real models, the real spool, PostgreSQL and Valkey."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.loading import new_loader
from support.pipeline_runs import CAPTURED_AT, in_a_thread, single_frame
from support.sessions import new_sessions
from support.tiny_models import squares_image, tiny_pipeline, write_tiny_mpta
from support.waiting import wait_until
from uuid_utils import uuid7

from detector_worker.core.clock import SystemClock
from detector_worker.core.entities import PipelineResult
from detector_worker.core.frame import Frame
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.pipeline_config import PipelineConfig
from detector_worker.pipeline.action_executor import ActionExecutor
from detector_worker.pipeline.pipeline_executor import PipelineExecutor
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.drainers import Drainers
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.redis_client import RedisClient, RedisSubscriber
from detector_worker.storage.sinks import PostgresqlSink, RedisSink
from detector_worker.storage.spool.spool import Spool

TABLE = "tiny_visits"


@dataclass
class Plant:
    """All that a group has, without cameras."""

    executor: PipelineExecutor
    config: PipelineConfig
    database: DatabaseManager
    redis: RedisClient
    spool: Spool

    async def run(self, record_id: str) -> PipelineResult:
        """Run the pipeline on a picture of a green square at (200, 104)."""
        frame = Frame(
            squares_image({(200, 104): "green"}),
            camera_id="cam-001",
            frame_id=7,
            time_s=1.0,
            captured_at=CAPTURED_AT,
        )
        context = single_frame(frame, record_id=record_id, session_id="s-1")
        return await self.executor.execute_pipeline(self.config, context)

    async def is_drained(self) -> bool:
        return all(sink.entries == 0 for sink in (await self.spool.backlog()).sinks.values())

    async def row(self, record_id: str) -> dict[str, object]:
        (row,) = await self.database.execute_query(f"SELECT * FROM {TABLE} WHERE record_id = $1", record_id)  # noqa: S608 - a table of our own
        return row


def archive(folder: Path) -> Path:
    branches = tiny_pipeline()["pipeline"]["branches"]
    absent = {**branches[0], "modelId": "absent_v1", "cropClass": "blue"}
    return write_tiny_mpta(folder / "tiny.mpta", branches=[*branches, absent])


@pytest.fixture
async def plant(servers: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Plant]:
    clock, loader = SystemClock(), new_loader(tmp_path / "archives")
    config = DatabaseConfig(
        str(servers.postgresql_socket_dir), database=servers.postgresql_database, user=servers.postgresql_user
    )
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(DatabaseManager(config, auto_migrate=True))
        redis = await stack.enter_async_context(RedisClient(f"unix://{servers.redis_socket}"))
        await database.execute_query(f"DROP TABLE IF EXISTS {TABLE}")
        spool = Spool(tmp_path / "spool.db")
        await spool.start()
        stack.push_async_callback(spool.stop)
        sinks = (PostgresqlSink(database, auto_migrate=True, clock=clock), RedisSink(redis, clock=clock))
        drainers = Drainers(spool, sinks, notify=lambda _: None)
        drainers.start()
        stack.push_async_callback(drainers.stop, 2.0)
        loaded = await loader.load_pipeline(archive(tmp_path))
        stack.callback(loaded.close)
        actions = ActionExecutor(outbox=new_sessions(spool), clock=clock, tables=loaded.config.tables)
        await actions.declare_tables()
        executor = PipelineExecutor(
            actions=actions,
            detectors={name: YOLODetector(model) for name, model in loaded.models.items()},
            run_inference=in_a_thread,
        )
        yield Plant(executor, loaded.config, database, redis, spool)


async def test_a_visit_becomes_one_complete_row_one_picture_and_one_message(plant: Plant) -> None:
    record_id = str(uuid7())
    subscriber = RedisSubscriber(plant.redis)
    await subscriber.subscribe("tiny:cam-001")

    result = await plant.run(record_id)

    assert result.status == "completed"
    assert result.classification_results["tiny_hue_v1"]["hue"] == "green"
    assert result.classification_results["tiny_tone_v1"]["tone"] == "bright"
    assert result.classification_results["absent_v1"] == {"hue": None, "confidence": None}
    await wait_until(plant.is_drained)
    row = await plant.row(record_id)
    assert str(row["record_id"]) == record_id
    assert {name: row[name] for name in ("session_id", "class_name", "hue", "tone", "note")} == {
        "session_id": "s-1",
        "class_name": "green",
        "hue": "green",
        "tone": "bright",
        "note": None,
    }
    assert getattr(row["captured_timestamp"], "timestamp", float)() == pytest.approx(CAPTURED_AT)
    key = f"tiny:display-001:{record_id}:{record_id}.jpg"
    image = cv2.imdecode(np.frombuffer(await plant.redis.get(key) or b"", np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == pytest.approx((64, 64, 3), abs=8)
    assert image[32, 32].tolist() == pytest.approx([0, 255, 0], abs=12)
    async with asyncio.timeout(5):
        _, message = await anext(subscriber.listen())
    await subscriber.close()
    assert json.loads(message) == {"event": "detected", "record": record_id, "image": key}


async def test_a_visit_that_is_run_twice_is_written_once(plant: Plant) -> None:
    record_id = str(uuid7())

    for _ in range(2):
        assert (await plant.run(record_id)).status == "completed"

    await wait_until(plant.is_drained)
    assert (await plant.row(record_id))["hue"] == "green"
    assert (await plant.spool.backlog()).dead_letters == 0
