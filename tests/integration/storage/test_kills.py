"""A worker's storage is killed at random moments under load; what it accepted is neither lost nor doubled."""

import asyncio
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from support.folders import open_folder
from support.storage_faults.dead_spools import integrity
from support.storage_faults.judgement import hearing, judge_arrivals, judge_messages, judge_pictures, judge_rows
from support.storage_faults.load import TABLES, Ledger
from support.storage_faults.private_servers import PrivatePostgresql, PrivateRedis, connected
from support.storage_faults.storage_process import new_storage
from support.waiting import wait_until

pytestmark = pytest.mark.faults

_TESTS = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.soak)])
async def test_kill_9_of_the_storage_loses_and_doubles_nothing(folder: Path, kills: int) -> None:
    rng, ledger, data_dir = random.Random(8), Ledger(), folder / "data"
    async with PrivatePostgresql(folder / "pg") as postgresql, PrivateRedis(folder / "redis") as redis:
        await postgresql.execute(*TABLES)
        async with Redis(unix_socket_path=str(redis.socket)) as client, hearing(client) as heard:
            lives = []
            for _ in range(kills):
                before = len(ledger.created_s)
                await live_and_die(ledger, rng, data_dir, str(postgresql.sockets), redis.url())
                lives.append(len(ledger.created_s) - before)
                assert integrity(data_dir / "spool.sqlite") == "ok"

            storage = new_storage(data_dir, str(postgresql.sockets), redis.url())
            await storage.start()

            async def is_drained() -> bool:
                return not any(sink.entries for sink in (await storage.spool.backlog()).sinks.values())

            await wait_until(is_drained, timeout_s=30)
            dead_letters = (await storage.spool.backlog()).dead_letters
            assert (left := await storage.stop()) is not None
            assert left.entries == 0
            async with connected(postgresql.config()) as database:
                problems = await judge_rows(database, ledger, is_complete=False)
                problems += await judge_arrivals(database, ledger)
            problems += await judge_pictures(client, ledger)
            problems += judge_messages(heard, ledger, is_sure=lambda _: True)

    accepted = len(ledger.created_s) + sum(ledger.updates.values()) + len(ledger.pictures)
    print(f"\n{kills} kills, {accepted} rows, updates and pictures accepted")  # noqa: T201 - a measurement
    assert not problems
    assert dead_letters == 0
    assert min(lives) > 0


async def live_and_die(ledger: Ledger, rng: random.Random, *arguments: object) -> None:
    """Run the storage until a random moment after its first acceptance; take note of all that it accepted."""
    command = (sys.executable, "-P", "-m", "support.storage_faults.storage_process", *map(str, arguments))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_TESTS), os.environ.get("PYTHONPATH", "")])}
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    assert process.stdout is not None
    killing: asyncio.TimerHandle | None = None
    try:
        async for line in process.stdout:
            ledger.note(line.decode().strip())
            if killing is None:
                killing = asyncio.get_running_loop().call_later(rng.uniform(0.1, 1.5), process.kill)
    finally:
        await process.wait()
    assert process.returncode == -9
