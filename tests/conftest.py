"""Fixtures of every test."""

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import pytest_asyncio
from support.databases import config_of, create_database, drop_database, make_template
from support.folders import open_folder
from support.measuring import PerformanceConfig
from support.tiny_models import squares_image, write_tiny_mpta
from support.tried import use_folder

from detector_worker.core.frame import Frame
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.redis_client import RedisClient

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for tests that ask ONNX Runtime themselves
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: what tests start must still hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _trials(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One folder for all that run these tests side by side; pytest tidies it up."""
    base = tmp_path_factory.getbasetemp()
    use_folder((base.parent if "popen" in base.name else base) / "tried")


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """A PostgreSQL and a Valkey of our own: no port, nothing installed, gone afterwards."""
    with open_folder() as folder, EmbeddedServers(folder / "data") as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def database_template(servers: EmbeddedServers) -> str:
    """The name of a database with the worker's own schema, to be cloned."""
    return await make_template(servers)


@pytest_asyncio.fixture
async def database_config(servers: EmbeddedServers, database_template: str) -> AsyncIterator[DatabaseConfig]:
    """A database of this test's own."""
    name = await create_database(servers, template=database_template)
    yield config_of(servers, name)
    await drop_database(servers, name)


@pytest_asyncio.fixture
async def database(database_config: DatabaseConfig) -> AsyncIterator[DatabaseManager]:
    """A manager connected to this test's own database."""
    async with DatabaseManager(database_config, auto_migrate=True) as manager:
        yield manager


@pytest_asyncio.fixture
async def redis_client(servers: EmbeddedServers) -> AsyncIterator[RedisClient]:
    """A client of a server that holds nothing yet."""
    async with RedisClient(f"unix://{servers.redis_socket}") as client:
        await client.pipeline([("FLUSHALL",)])
        yield client


@pytest.fixture
def temp_config_file(tmp_path: Path) -> Path:
    """A configuration file of a worker that keeps to a folder of its own and takes any free port."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"server": {"port": 0, "data_dir": str(tmp_path / "data")}}))
    return file


@pytest.fixture
def mock_frame() -> Frame:
    """Noise, 640x360, as a BGR picture: nothing to be found in it."""
    noise = np.random.default_rng(1).integers(0, 256, (360, 640, 1), np.uint8).repeat(3, axis=2)
    return Frame(noise, camera_id="mock", frame_id=1, time_s=0.0, captured_at=1_700_000_000.0)


@pytest.fixture
def sample_frame() -> Frame:
    """A red square at (100, 100) and a blue one at (400, 200), each 64 px, 640x360, as decoded from a camera."""
    image = squares_image({(100, 100): "red", (400, 200): "blue"})
    picture = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p")
    return Frame(picture, camera_id="sample", frame_id=1, time_s=0.0, captured_at=1_700_000_000.0)


@pytest.fixture
def sample_mpta_file(tmp_path: Path) -> Path:
    """An archive with the tiny detector and classifier and a complete pipeline."""
    return write_tiny_mpta(tmp_path / "sample.mpta")


@pytest.fixture
def performance_config() -> PerformanceConfig:
    """Five rounds to warm up, a hundred to measure."""
    return PerformanceConfig()
