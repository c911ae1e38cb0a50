"""The demo on the terminal: a table that lives, or a line for each event where nobody looks."""

import asyncio

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from detector_worker.cli.demo.board import Board, CameraView, Event, RecordView, WorkerView

__all__ = ["show"]

_NEWEST = 8


async def show(board: Board, console: Console, *, page_url: str) -> None:
    """Show the board until cancelled."""
    if console.is_terminal:
        with Live(get_renderable=lambda: _screen(board, page_url), console=console, refresh_per_second=4):
            await asyncio.Event().wait()
    states: dict[str, str] = {}
    with board.listen() as listener:
        while (event := await listener.get()) is not None:
            if not isinstance(event, CameraView):
                say(console, _line(event))
            elif states.get(event.camera_id) != event.state:
                states[event.camera_id] = event.state
                say(console, _line(event))


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(Text(text), soft_wrap=True)


def _line(event: Event) -> str:
    match event:
        case WorkerView():
            return f"worker: pid {event.pid} {event.state} {event.detail}".rstrip()
        case CameraView():
            return f"{event.camera_id}: {event.state} {event.detail}".rstrip()
        case RecordView():
            return f"{event.camera_id}: {_seen(event)}{_latency(event)}"


def _seen(record: RecordView) -> str:
    return " ".join(value for value in (record.brand, record.body, record.plate) if value) or "a vehicle"


def _latency(record: RecordView) -> str:
    return "" if record.latency_ms is None else f" ({record.latency_ms:.0f} ms)"


def _screen(board: Board, page_url: str) -> Group:
    cameras = Table("camera", "state", "", "records", box=None)
    for camera in board.cameras.values():
        cameras.add_row(camera.camera_id, Text(camera.state), Text(camera.detail), str(camera.records))
    newest = Table("time", "camera", "vehicle", box=None)
    for record in list(board.records)[: -_NEWEST - 1 : -1]:
        newest.add_row(record.timestamp[11:19], record.camera_id, Text(_seen(record) + _latency(record)))
    worker = _line(board.worker) if board.worker.pid else "worker: about to start"
    return Group(Text(f"{page_url} shows it; Ctrl-C ends it.", style="bold"), Text(worker), cameras, newest)
