"""Who is told what, and when no longer."""

from detector_worker.cli.demo.board import Board, CameraView, RecordView, WorkerView


def record(number: int) -> RecordView:
    return RecordView(f"id-{number}", "cam-1", "2026-01-31T09:26:53.589Z", "red", "bright", None, 20.0)


def test_a_record_counts_once_however_often_it_is_told() -> None:
    board = Board(["cam-1", "cam-2"])
    with board.listen() as listener:
        board.note_record(record(1))
        board.note_record(record(1))

        assert [listener.get_nowait() for _ in range(listener.qsize())] == [
            CameraView("cam-1", records=1),
            record(1),
        ]
    assert board.cameras["cam-2"].records == 0


def test_a_newcomer_gets_the_worker_all_cameras_and_the_last_50_records() -> None:
    board = Board(["cam-1"])
    board.set_worker(WorkerView("running", 42))
    for number in range(60):
        board.note_record(record(number))

    worker, camera, *records = board.snapshot()

    assert worker == WorkerView("running", 42)
    assert camera == CameraView("cam-1", records=60)
    assert records == [record(number) for number in range(10, 60)]


def test_a_listener_that_does_not_read_loses_its_place_and_harms_nobody() -> None:
    board = Board(["cam-1"])
    with board.listen() as slow, board.listen() as quick:
        for number in range(1000):
            board.set_camera("cam-1", "active", str(number))
            assert quick.get_nowait() is not None

        kept = [slow.get_nowait() for _ in range(slow.qsize())]
    assert len(kept) == 201
    assert kept[-1] is None


def test_with_the_worker_the_connections_end_but_what_has_been_played_stays_so() -> None:
    board = Board(["cam-1", "cam-2", "cam-3"])
    board.set_camera("cam-1", "active")
    board.set_camera("cam-2", "played")

    board.set_worker(WorkerView("restarting", 42, 1))
    board.set_camera("cam-2", "error")

    assert [camera.state for camera in board.cameras.values()] == ["connecting", "played", "waiting"]
