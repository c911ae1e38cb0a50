"""Looking names up, with a deadline."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from detector_worker.core.name_lookup import look_up, read_numeric


@pytest.fixture
def hanging_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system's look-up as it is while no name server answers."""
    let_go, real = threading.Event(), socket.getaddrinfo

    def hang(host: str, *args: Any, **others: Any) -> object:
        if not others["flags"] & socket.AI_NUMERICHOST:
            let_go.wait(10)
        return real(host, *args, **others)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield
    let_go.set()


def test_a_name_becomes_its_addresses() -> None:
    assert "127.0.0.1" in look_up("localhost", 80, timeout_s=5)


@pytest.mark.parametrize(("text", "ip"), [("127.0.0.1", "127.0.0.1"), ("0x7f.1", "127.0.0.1"), ("::1", "::1")])
def test_a_number_needs_no_name_server(text: str, ip: str, hanging_resolver: None) -> None:
    assert look_up(text, 80, timeout_s=0.1) == (ip,)
    assert read_numeric(text, 80) == (ip,)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(socket.gaierror):
        look_up("no-such-host.invalid", 80, timeout_s=10)


def test_a_label_that_is_none_is_an_error() -> None:
    with pytest.raises(socket.gaierror):
        look_up("a" * 70 + ".example", 80, timeout_s=10)


def test_a_look_up_that_hangs_is_given_up_in_time(hanging_resolver: None) -> None:
    started_s = time.monotonic()
    with pytest.raises(socket.gaierror, match="in time"):
        look_up("localhost", 80, timeout_s=0.2)
    assert time.monotonic() - started_s < 1
