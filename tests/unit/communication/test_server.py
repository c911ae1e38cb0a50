import socket

import pytest

from detector_worker.communication.server import open_listener
from detector_worker.core.exceptions import ConfigurationError


def test_a_busy_port_is_told_with_its_number_and_remedy() -> None:
    with open_listener("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"busy \[server\.host 127.*port {port}\].*--port"):
            open_listener("127.0.0.1", port)


def test_a_host_that_is_not_this_machines_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"server\.host 192\.0\.2\.1"):
        open_listener("192.0.2.1", 0)


def test_ipv6_is_listened_on_with_or_without_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    for host in ("::1", "[::1]"):
        with open_listener(host, 0) as listener:
            assert listener.family is socket.AF_INET6


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
def test_a_client_that_never_reads_is_given_up_by_the_kernel() -> None:
    with open_listener("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
