"""``detector-worker spool`` on a spool that a worker has left, and on one that is in use."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.folders import open_folder
from support.spooling import StateLog, creation, image, publication, update
from support.waiting import wait_until
from typer.testing import CliRunner, Result

from detector_worker.cli.spool import spool as command
from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import DetectorWorkerError
from detector_worker.core.outbox import SpoolEntry
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.drainers import Drainers
from detector_worker.storage.durable_storage import WORKER_LOCK
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.folder_lock import FolderLock
from detector_worker.storage.redis_client import RedisClient
from detector_worker.storage.sinks import PostgresqlSink
from detector_worker.storage.spool.spool import Spool

COMMAND = (sys.executable, "-P", "-m", "detector_worker", "spool")
HOSTILE = "x\x1b]0;mine\x07\x9b2J\u202e\n[red]fake: line[/red]"


@pytest.fixture
def data() -> Iterator[Path]:
    with open_folder() as folder:
        (folder / "data").mkdir()
        yield folder / "data"


@pytest.fixture
async def spool(data: Path) -> AsyncIterator[Spool]:
    """The spool of a worker that runs, as far as the spool goes."""
    spool = Spool(data / "spool.sqlite")
    await spool.start()
    yield spool
    await spool.stop()


async def fill(spool: Spool, *entries: SpoolEntry, dead: tuple[str, ...] = (), reason: str = "no such column") -> None:
    await spool.accept(entries)
    numbers = {entry.key: number for number, entry in enumerate(entries, 1)}
    for key in dead:
        await spool.bury(numbers[key], reason, attempts=1)


def call(data: Path, *arguments: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments), "--data-dir", str(data)], input=answer)


def done(data: Path, *arguments: object, answer: str | None = None) -> str:
    result = call(data, *arguments, answer=answer)
    assert result.exit_code == 0, result
    return result.stdout


def read_json(data: Path, *arguments: object) -> Any:
    return json.loads(done(data, *arguments, "--json"))


def remaining(data: Path) -> list[str]:
    return [entry["key"] for entry in read_json(data, "list", "--limit", "0")]


async def test_the_status_tells_what_waits_what_is_dead_and_what_was_lost(data: Path, spool: Spool) -> None:
    await fill(spool, creation("a"), update("a"), image("a", key="k"), dead=("a:update",))
    hour_ago = publication("b", channel="c", message="m", max_age_s=9_999, created_at=time.time() - 3_725)
    await fill(spool, hour_ago, publication("c", channel="c", message="m", max_age_s=1, created_at=1.0))
    await spool.drop_expired()
    lock = FolderLock(data / WORKER_LOCK)

    idle, told = done(data, "status"), read_json(data, "status")
    lock.acquire()
    busy = read_json(data, "status")["worker"]
    lock.release()

    assert idle.splitlines() == [
        "No worker runs here.",
        "Waiting for postgresql: 1 entry, 0.6 KiB, the oldest for 0 s",
        "Waiting for redis: 2 entries, 1.1 KiB, the oldest for 0 s",
        "Dead letters: 1, see `detector-worker spool list --dead`",
        "Room: 2.2 KiB of 4096.0 MiB taken; pictures that wait: 1",
        "Lost so far: 1 too old to be published",
    ]
    assert told["sinks"]["postgresql"]["entries"] == told["dead_letters"] == told["lost"]["expired"] == 1
    assert told["worker"] is None
    assert busy == os.getpid()
    done(data, "drop", "a:image k", "--yes")
    assert "redis: 1 entry, 0.5 KiB, the oldest for 1 h 2 min" in done(data, "status")


async def test_entries_are_listed_each_on_a_line(data: Path, spool: Spool) -> None:
    await fill(spool, creation("a"), image("a", key="k"), creation("b"), dead=("b:create",))

    _, first, second, third = (" ".join(line.split()) for line in done(data, "list").splitlines())
    bounded = call(data, "list", "--limit", "1")

    assert first == "1 a:create CreateRecord postgresql 0 s 0.6 KiB 0"
    assert second == "2 a:image k StoreImage redis 0 s 0.5 KiB 0"
    assert third == "3 b:create CreateRecord postgresql 0 s 0.6 KiB 1 no such column"
    assert len(bounded.stdout.splitlines()) == 2
    assert "--limit 0" in bounded.stderr
    assert [entry["key"] for entry in read_json(data, "list", "--dead", "--sink", "postgresql")] == ["b:create"]
    assert [entry["key"] for entry in read_json(data, "list", "--visit", "a")] == ["a:create", "a:image k"]
    assert done(data, "list", "--visit", "nobody") == "Nothing.\n"


async def test_an_entry_is_shown_with_all_that_it_holds(data: Path, spool: Spool) -> None:
    reason = "a long reason " * 100
    await fill(
        spool,
        creation("a", plate="B-ö 1"),
        image("a", key="k", content=b"\xff\xd8."),
        dead=("a:create",),
        reason=reason,
    )

    record, picture = done(data, "show", "a:create"), done(data, "show", "2", "--picture", data / "car.jpg")

    assert f"why: {reason}\n" in record
    assert json.loads(record[record.index("\n{") :])["fields"] == {"record_id": "a", "plate": "B-ö 1"}
    assert '"plate": "B-ö 1"' in record  # as people read it
    assert '"key": "k"' in picture
    assert (data / "car.jpg").read_bytes() == b"\xff\xd8."
    assert read_json(data, "show", "2")["picture_bytes"] == 3
    assert "no picture" in str(call(data, "show", "1", "--picture", data / "car.jpg").exception)
    assert "There is no entry 'b'" in str(call(data, "show", "b").exception)


async def test_dropping_asks_and_takes_along_what_can_never_arrive(data: Path, spool: Spool) -> None:
    await fill(spool, creation("a"), update("a"), image("a", key="k"), creation("b"), dead=("b:create",))

    refused = call(data, "drop", "a:create", answer="n\n")
    assert refused.exit_code == 1
    assert "Drop 2 entries (1 CreateRecord, 1 UpdateRecord) for good?" in refused.stderr
    assert len(remaining(data)) == 4

    assert done(data, "drop", "a:create", answer="y\n").endswith("Dropped: 2 entries.\n")
    assert done(data, "drop", "--dead", "--yes") == "Dropped: 1 entry.\n"
    assert done(data, "drop", "--dead") == "There are no dead letters.\n"
    assert remaining(data) == ["a:image k"]
    assert read_json(data, "status")["lost"] == {"removed": 3}


@pytest.mark.parametrize("name", ["retry", "drop"])
@pytest.mark.parametrize("choice", [(), ("--dead", "a:create")])
async def test_what_is_meant_must_be_said(data: Path, spool: Spool, name: str, choice: tuple[str, ...]) -> None:
    await fill(spool, creation("a"), dead=("a:create",))

    assert call(data, name, *choice).exit_code == 2
    assert read_json(data, "status")["dead_letters"] == 1


async def test_an_export_holds_everything_and_leaves_the_spool_alone(data: Path, spool: Spool) -> None:
    outside = "../../outside"
    await fill(
        spool,
        creation(outside, plate="B"),
        image(outside, key=outside, content=b"\xff\xd8."),
        dead=(f"{outside}:create",),
    )

    told = done(data, "export", data / "all")
    done(data, "export", data / "dead", "--dead")
    again = call(data, "export", data / "all")

    assert told == "Exported: 2 entries, 1 with a picture.\n"
    assert sorted(path.name for path in (data / "all").iterdir()) == ["000002.jpg", "entries.jsonl"]
    record, picture = map(json.loads, (data / "all" / "entries.jsonl").read_text(encoding="utf-8").splitlines())
    assert (record["key"], record["dead_reason"]) == (f"{outside}:create", "no such column")
    assert record["payload"]["fields"]["plate"] == "B"
    assert (picture["picture"], picture["payload"]["key"]) == ("000002.jpg", outside)
    assert (data / "all" / "000002.jpg").read_bytes() == b"\xff\xd8."
    assert [path.name for path in (data / "dead").iterdir()] == ["entries.jsonl"]
    assert len((data / "dead" / "entries.jsonl").read_text().splitlines()) == 1
    assert "something in this folder" in str(again.exception)
    assert len(remaining(data)) == 2


async def test_no_text_from_outside_steers_the_terminal(data: Path, spool: Spool) -> None:
    entries = creation(HOSTILE, note=HOSTILE), update("a", **{HOSTILE: HOSTILE})
    told = publication(HOSTILE, channel=HOSTILE, message=HOSTILE)
    await fill(spool, *entries, told, dead=("a:update",), reason=HOSTILE)
    await spool.file.write(lambda connection: connection.execute("INSERT INTO counts VALUES (?, 1)", (HOSTILE,)))
    folder = data / "copy"
    commands: list[tuple[object, ...]] = [
        ("status",),
        ("status", "--json"),
        ("list",),
        ("list", "--json"),
        *(("show", number, *form) for number in (1, 2, 3) for form in ((), ("--json",))),
        ("show", "no" + HOSTILE),
        ("export", folder),
        ("retry", "a:update"),
        ("drop", 1),
    ]

    outputs = [call(data, *arguments, answer="n\n") for arguments in commands]

    texts = [result.output + str(result.exception or "") for result in outputs]
    texts.append((folder / "entries.jsonl").read_text(encoding="utf-8"))
    for arguments, text in zip([*commands, "entries.jsonl"], texts, strict=True):
        assert all(char.isprintable() or char == "\n" for char in text), arguments
        assert not any(line.startswith("[red]fake") for line in text.splitlines()), arguments
    assert "[red]fake: line[/red]" in texts[2]  # taken as it is, and no markup
    assert json.loads(outputs[3].stdout)[0]["visit_id"] == HOSTILE


def test_a_folder_without_a_spool_is_told_and_stays_empty(data: Path) -> None:
    for name in (("status",), ("list",), ("retry", "--dead"), ("drop", "--dead"), ("export", data / "x"), ("drain",)):
        result = call(data, *name)
        assert isinstance(result.exception, DetectorWorkerError), result
        assert "There is no spool here" in str(result.exception)
    assert list(data.iterdir()) == []


async def test_a_retry_while_a_worker_runs_delivers_within_3_s(
    data: Path, spool: Spool, database: DatabaseManager
) -> None:
    await database.execute_query("CREATE TABLE cars (record_id uuid PRIMARY KEY, brand text, seen int)")
    good, poison = str(uuid4()), str(uuid4())
    log = StateLog()
    drainers = Drainers(spool, [PostgresqlSink(database, auto_migrate=True, clock=SystemClock())], notify=log)
    drainers.start()
    try:
        await spool.accept([creation(good, seen=1), creation(poison, seen="twice"), update(poison, brand="Toyota")])
        await wait_until(lambda: read_json(data, "status")["dead_letters"] == 2)
        await database.execute_query("ALTER TABLE cars ALTER seen TYPE text")

        done(data, "retry", f"{poison}:create")

        async def is_delivered() -> bool:
            return ("twice", "Toyota") in {
                (row["seen"], row["brand"]) for row in await database.execute_query("SELECT seen, brand FROM cars")
            }

        await wait_until(is_delivered, timeout_s=3.0)
    finally:
        await drainers.stop(5.0)
    assert remaining(data) == []


def start_drain(data: Path, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
    environment = {f"DETECTOR_WORKER_{name}": value for name, value in settings.items()}
    return subprocess.Popen(
        [*COMMAND, "drain", "--data-dir", str(data), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=data,
        env=os.environ | environment,
    )


def addresses(servers: EmbeddedServers, config: DatabaseConfig) -> dict[str, str]:
    database = {"HOST": config.host, "DATABASE": config.database, "USER": config.user}
    return {
        **{f"DATABASE__{name}": value for name, value in database.items()},
        "REDIS__URL": f"unix://{servers.redis_socket}",
    }


def leave_a_spool(data: Path, count: int) -> None:
    """Have a process accept records and pictures, and kill it."""
    program = """
        import asyncio, pathlib, sys
        from support.spooling import creation, image
        from detector_worker.storage.folder_lock import FolderLock
        from detector_worker.storage.spool.spool import Spool

        async def main(folder, count):
            FolderLock(folder / "worker.lock").acquire()
            spool = Spool(folder / "spool.sqlite")
            await spool.start()
            ids = [f"00000000-0000-4000-8000-{number:012}" for number in range(count)]
            await spool.accept([entry for one in ids for entry in (creation(one), image(one, key=one))])
            print("accepted", flush=True)
            await asyncio.sleep(60)

        asyncio.run(main(pathlib.Path(sys.argv[1]), int(sys.argv[2])))
    """
    arguments = [sys.executable, "-c", textwrap.dedent(program), str(data), str(count)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "accepted\n"
        child.kill()


async def test_drain_delivers_what_a_killed_worker_left(
    data: Path,
    servers: EmbeddedServers,
    database: DatabaseManager,
    database_config: DatabaseConfig,
    redis_client: RedisClient,
) -> None:
    await database.execute_query("CREATE TABLE cars (record_id uuid PRIMARY KEY)")
    await asyncio.to_thread(leave_a_spool, data, 700)  # more than a batch

    with start_drain(data, **addresses(servers, database_config)) as process:
        told, complaints = await asyncio.to_thread(process.communicate, timeout=30)

    assert process.returncode == 0, complaints
    assert told.splitlines() == ["Waiting for postgresql: nothing", "Waiting for redis: nothing", "Dead letters: none"]
    assert await database.execute_query("SELECT count(*) AS rows FROM cars") == [{"rows": 700}]
    assert await redis_client.get(f"00000000-0000-4000-8000-{699:012}") == b"\xff\xd8"
    assert "Waiting for postgresql: nothing" in done(data, "drain")  # and once more, without any server


@pytest.mark.parametrize("end", ["time", "interrupt"])
async def test_drain_ends_though_a_sink_is_away_and_says_what_remains(
    data: Path,
    spool: Spool,
    database: DatabaseManager,
    servers: EmbeddedServers,
    database_config: DatabaseConfig,
    *,
    end: str,
) -> None:
    await database.execute_query("CREATE TABLE cars (record_id uuid PRIMARY KEY)")
    ids = [str(uuid4()) for _ in range(3)]
    await fill(spool, *(entry for one in ids for entry in (creation(one), image(one, key=one))))
    await spool.stop()
    settings = addresses(servers, database_config) | {"REDIS__URL": f"unix://{data}/nobody"}

    with start_drain(data, "--timeout", "1" if end == "time" else "60", **settings) as process:
        if end == "interrupt":
            await wait_until(lambda: read_json(data, "status")["sinks"]["postgresql"]["entries"] == 0, timeout_s=20)
            process.send_signal(signal.SIGINT)
        told, complaints = await asyncio.to_thread(process.communicate, timeout=30)

    assert process.returncode == 1, complaints
    assert "Waiting for postgresql: nothing" in told
    assert "Waiting for redis: 3 entries" in told
    assert "No delivery to redis: " in complaints
    assert "Traceback" not in complaints


def test_drain_leaves_it_to_a_worker_that_runs(data: Path) -> None:
    lock = FolderLock(data / WORKER_LOCK)
    lock.acquire()
    try:
        result = call(data, "drain")
    finally:
        lock.release()

    assert f"A worker runs here, process {os.getpid()}, and delivers by itself" in str(result.exception)


def test_every_command_explains_itself() -> None:
    for name in ("status", "list", "show", "retry", "drop", "export", "drain"):
        text = CliRunner().invoke(command, [name, "--help"]).output
        assert f"Example: detector-worker spool {name}" in " ".join(text.split())
        assert "Exit 0" in text
