import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.logs import own_logging

from detector_worker.utils.logging import setup_logging


@pytest.fixture(autouse=True)
def logging_of_this_test() -> Iterator[None]:
    with own_logging():
        yield


def lines(folder: Path) -> list[str]:
    return (folder / "detector_worker.log").read_text(encoding="utf-8").splitlines()


def test_a_line_holds_time_name_level_place_and_message(tmp_path: Path) -> None:
    root = setup_logging("INFO", folder=tmp_path)
    logging.getLogger("cameras").warning("Camera %s is silent", "gate")
    logging.getLogger("cameras").debug("not this")

    assert root is logging.getLogger()
    (line,) = lines(tmp_path)
    pattern = (
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - cameras - WARNING - \[test_logging\.py:\d+\] - Camera gate is silent"
    )
    assert re.fullmatch(pattern, line)


@pytest.mark.parametrize("evil", ["a\nb", "a\r\nb", "a\x1b[2Jb", "a\x00b", "a\u2028b", "a\x85b", "a\u202eb"])
def test_nobody_can_forge_a_line_or_rewrite_the_terminal(tmp_path: Path, evil: str) -> None:
    setup_logging(folder=tmp_path)
    logging.getLogger("x").error("Display %s", evil)
    try:
        raise ValueError(evil)
    except ValueError:
        logging.getLogger("x").exception("It failed")

    first, second, *traceback = lines(tmp_path)
    assert first.endswith(f"Display {evil.encode('unicode_escape').decode()}")
    assert second.endswith("It failed")
    assert all(line.startswith("    ") for line in traceback)
    assert "\x1b" not in "".join(traceback)


def test_json_lines_hold_the_same_and_the_traceback(tmp_path: Path) -> None:
    setup_logging(folder=tmp_path, json_lines=True)
    try:
        raise ValueError("a\nb")
    except ValueError:
        logging.getLogger("x").exception("It %s", "failed\n")

    (line,) = lines(tmp_path)
    entry = json.loads(line)
    assert (entry["message"], entry["level"], entry["logger"]) == ("It failed\n", "error", "x")
    assert entry["filename"] == "test_logging.py"
    assert "ValueError" in entry["exception"]
    assert entry["timestamp"].endswith("Z")


def test_setting_up_again_replaces_what_was(tmp_path: Path) -> None:
    setup_logging(folder=tmp_path)
    setup_logging("DEBUG", folder=tmp_path)
    logging.getLogger("x").debug("once")

    assert len(lines(tmp_path)) == 1


def test_refused_sockets_do_not_fill_the_log(tmp_path: Path) -> None:
    setup_logging(folder=tmp_path)
    logging.getLogger("uvicorn.error").error("ASGI callable returned without completing handshake.")
    logging.getLogger("uvicorn.error").error("something else")

    assert len(lines(tmp_path)) == 1


def test_the_file_is_for_the_workers_account_alone(tmp_path: Path) -> None:
    setup_logging("INFO", folder=tmp_path)

    assert (tmp_path / "detector_worker.log").stat().st_mode & 0o077 == 0
