"""A real worker in a process of its own, and a client that speaks its protocol."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import asyncpg
from redis.asyncio import Redis
from support.tried import share_trials
from websockets.asyncio.client import ClientConnection, connect

from detector_worker.cli.services import find_services

_COMMAND = (sys.executable, "-P", "-m", "detector_worker")
_READY_S = 40.0


class WorkerProcess:
    """``detector-worker serve`` on a free port."""

    def __init__(self, data_dir: Path, *arguments: str, **settings: str) -> None:
        """``settings`` are environment variables without the prefix, such as ``ENGINE__GROUPS="2"``."""
        environment = {f"DETECTOR_WORKER_{name}": value for name, value in settings.items()}
        self.data_dir = data_dir
        self.output: list[str] = []
        self.process = subprocess.Popen(
            [*_COMMAND, "serve", "--port", "0", "--data-dir", str(share_trials(data_dir)), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=data_dir.parent,
            env=os.environ | environment,
        )
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        in_time = self._ready.wait(_READY_S)
        match = re.search(r"ws://\S+", self.output[-1]) if in_time and self.output else None
        if match is None:
            self.kill()
            raise AssertionError(f"the worker did not become ready: {self.output}")
        self.url = match.group()
        self.http_url = self.url.replace("ws://", "http://")

    def kill(self) -> None:
        """Kill it as a power failure would, and take note of its end."""
        self.process.kill()
        self._join()

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._join()

    def services(self) -> dict[str, str]:
        """What ``detector-worker services --json`` says, without its process."""
        return asdict(find_services(self.data_dir))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def _join(self) -> int:
        try:
            return self.process.wait(15)
        finally:
            self.process.kill()
            self._reader.join(5)
            if self.process.stdout:
                self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line.rstrip())
            if "is ready" in line:
                self._ready.set()
        self._ready.set()


class Client:
    """One client of the control protocol; what is no reply is kept in `messages`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.messages: list[dict[str, Any]] = []
        self._arrived = asyncio.Condition()
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._count = 0

    async def request(self, kind: str, **payload: Any) -> dict[str, Any]:
        """Send a request and return its reply."""
        self._count += 1
        request_id = str(self._count)
        self._replies[request_id] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"type": kind, "payload": payload, "requestId": request_id}))
        return await asyncio.wait_for(self._replies[request_id], 30)

    def payloads(self, kind: str) -> list[dict[str, Any]]:
        """The payloads of all messages of a kind so far."""
        return [message["payload"] for message in self.messages if message["type"] == kind]

    async def wait_for(self, kind: str, count: int = 1, *, timeout_s: float = 20.0) -> list[dict[str, Any]]:
        """Wait until so many messages of a kind have come, and return their payloads."""
        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(lambda: len(self.payloads(kind)) >= count)
        return self.payloads(kind)

    async def receive(self) -> None:
        """Take messages until the connection ends."""
        async for text in self._socket:
            message = json.loads(text)
            reply = self._replies.get(message.get("requestId", ""))
            if reply is not None and not reply.done():
                reply.set_result(message)
                continue
            async with self._arrived:
                self.messages.append(message)
                self._arrived.notify_all()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """Connect a client to a worker."""
    async with connect(url, max_size=2**24) as socket:
        client = Client(socket)
        receiving = asyncio.create_task(client.receive())
        try:
            yield client
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)


@asynccontextmanager
async def stored(services: dict[str, str]) -> AsyncIterator[tuple[asyncpg.Connection, "Redis"]]:
    """Connect to a worker's PostgreSQL and Redis by what ``services`` printed."""
    parts = dict(part.split("=", 1) for part in services["postgresql"].split())
    database = await asyncpg.connect(host=parts["host"], database=parts["dbname"], user=parts["user"])
    redis: Redis = Redis(unix_socket_path=services["redis"].removeprefix("-s "))
    try:
        yield database, redis
    finally:
        await database.close()
        await redis.aclose()


@contextmanager
def worker(data_dir: Path, *arguments: str, **settings: str) -> Iterator[WorkerProcess]:
    """Run a worker."""
    with WorkerProcess(data_dir, *arguments, **settings) as running:
        yield running
