import ipaddress
import pickle
import shutil
import string
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector_worker.core.addresses import Address, NetworkPolicy, resolve_and_check
from detector_worker.core.exceptions import MessageProcessingError

CAMERA = frozenset({"rtsp", "http", "https"})
CANARY = "Kanarienvogel"


def parse(text: str) -> Address:
    return Address.parse(text, allowed_schemes=CAMERA)


def what_is_shown(url: str) -> tuple[str, Address | None]:
    try:
        address = parse(url)
    except MessageProcessingError as exc:
        return f"{exc} {exc!r} {exc.__cause__!r}", None
    return f"{address} {address!r} {address!s:>80} {[address]} {address.host}", address


@given(
    password=st.text(alphabet=string.printable, min_size=0, max_size=20), user=st.text(string.ascii_letters, min_size=1)
)
def test_whatever_the_password_holds_it_is_refused_or_hidden(password: str, user: str) -> None:
    secret = f"{CANARY}{password}{CANARY}"
    for url in (
        f"rtsp://{user}X:{secret}@gate.example:554/h264/ch1",
        f"rtsp://{user}X:{quote(secret, safe='')}@10.0.0.7/h264?token={quote(secret, safe='')}",
        f"http://cam/snap?{secret}",
        f"http://cam/user=admin_password={secret}_channel=1.sdp",
    ):
        shown, address = what_is_shown(url)
        assert CANARY not in shown
        assert address is None or CANARY in address.secret()


def test_shown_text_keeps_what_helps_to_find_the_camera() -> None:
    address = parse("RTSP://admin:s3cret@Gate-2.local:8554/cam/realmonitor?channel=1&subtype=0&auth=QUJD")

    assert str(address) == "rtsp://***@gate-2.local:8554/cam/realmonitor?channel=1&subtype=0&***"
    assert (address.scheme, address.host, address.port, address.path) == (
        "rtsp", "gate-2.local", 8554, "/cam/realmonitor",
    )  # fmt: skip


def test_addresses_are_equal_by_the_whole_and_survive_a_pipe() -> None:
    one, other = parse("rtsp://a:1@cam/x"), parse("rtsp://a:2@cam/x")

    assert one != other
    assert str(one) == str(other)
    assert {pickle.loads(pickle.dumps(one)): 1}[parse("rtsp://a:1@cam/x")] == 1  # noqa: S301 - our own bytes


def test_no_serialiser_prints_an_address_by_itself() -> None:
    with pytest.raises(TypeError):
        orjson.dumps(parse("rtsp://a:1@cam/x"))


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("file:///etc/passwd", "url_refused"),
        ("concat://a|b", "url_refused"),
        ("gopher://cam/", "url_refused"),
        ("subfile,,start,0,end,9,,:/etc/passwd", "invalid_field"),
        ("/etc/passwd", "invalid_field"),
        ("", "invalid_field"),
        ("rtsp://", "invalid_field"),
        ("rtsp://cam:99999/", "invalid_field"),
        ("rtsp://cam:port/", "invalid_field"),
        ("rtsp://[::1/", "invalid_field"),
        ("rtsp://[1:2]/", "invalid_field"),
        ("rtsp://cam/a\nb", "invalid_field"),
        ("rtsp://cam\r\nX-Evil: 1/", "invalid_field"),
        ("http://good\\@evil/", "invalid_field"),
        ("http://%65vil/", "invalid_field"),
        ("rtsp://admin:pa/ss@cam/", "invalid_field"),
        ("rtsp://admin:12#ss@cam/", "invalid_field"),
        ("rtsp://cam/" + "a" * 3000, "invalid_field"),
    ],
)
def test_what_is_no_address_of_a_camera_is_refused(url: str, code: str) -> None:
    with pytest.raises(MessageProcessingError) as caught:
        parse(url)

    assert caught.value.code == code


def test_file_urls_are_of_this_machine() -> None:
    files = frozenset({"file"})

    assert Address.parse("file:///models/a@b#1.mpta", allowed_schemes=files).path == "/models/a@b#1.mpta"
    with pytest.raises(MessageProcessingError):
        Address.parse("file://server/share.mpta", allowed_schemes=files)


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "10.1.2.3", "192.168.7.7", "::1", "fd12::1", "8.8.8.8", "2606:4700::1111"]
)
def test_loopback_private_and_public_addresses_are_permitted_by_default(text: str) -> None:
    assert NetworkPolicy().permits(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254", "169.254.3.4", "fe80::1", "224.0.0.1", "ff02::1", "0.0.0.0", "::", "255.255.255.255",  # noqa: S104 - an address to be refused
        "::ffff:169.254.169.254", "::ffff:0.0.0.0", "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe", "fd00:ec2::254",
        "100.100.100.200", "fd00:ec2::23", "169.254.170.23", "168.63.129.16", "192.0.0.192", "::ffff:168.63.129.16",
    ],
)  # fmt: skip
def test_link_local_metadata_and_multicast_addresses_never_are(text: str) -> None:
    assert not NetworkPolicy().permits(ipaddress.ip_address(text))
    assert not NetworkPolicy(allowed=(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))).permits(
        ipaddress.ip_address(text)
    )


def test_link_local_is_opened_only_by_naming_it_and_metadata_not_even_then() -> None:
    policy = NetworkPolicy(allowed=(ipaddress.ip_network("169.254.0.0/16"),))

    assert policy.permits(ipaddress.ip_address("169.254.3.4"))
    assert not policy.permits(ipaddress.ip_address("169.254.169.254"))


def test_listed_networks_are_the_only_ones_and_denied_ones_win() -> None:
    policy = NetworkPolicy(allowed=(ipaddress.ip_network("10.0.0.0/8"),), denied=(ipaddress.ip_network("10.9.0.0/16"),))

    assert policy.permits(ipaddress.ip_address("10.1.2.3"))
    assert not policy.permits(ipaddress.ip_address("10.9.2.3"))
    assert not policy.permits(ipaddress.ip_address("8.8.8.8"))


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]"])
def test_no_spelling_of_the_metadata_address_resolves(host: str) -> None:
    with pytest.raises(MessageProcessingError) as caught:
        resolve_and_check(parse(f"http://user:{CANARY}@{host}/latest"), NetworkPolicy())

    assert caught.value.code == "url_refused"
    assert CANARY not in str(caught.value)


def test_resolving_gives_the_checked_addresses() -> None:
    assert resolve_and_check(parse("rtsp://127.0.0.1:8554/cam-1"), NetworkPolicy()) == ("127.0.0.1",)


def test_a_name_that_leads_to_where_nobody_may_go_is_refused() -> None:
    loopback = NetworkPolicy(denied=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")))

    with pytest.raises(MessageProcessingError, match="must not connect") as caught:
        resolve_and_check(parse("rtsp://localhost:8554/cam-1"), loopback)
    assert caught.value.code == "url_refused"


def test_a_name_that_cannot_exist_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r"[Nn]ame"):
        resolve_and_check(parse("rtsp://" + "a." * 120 + "..b/"), NetworkPolicy())


_ASK = """
from detector_worker.core.addresses import Address, NetworkPolicy, resolve_and_check
from detector_worker.core.exceptions import MessageProcessingError
try:
    print(resolve_and_check(Address.parse("rtsp://camera.test/x", frozenset({"rtsp"})), NetworkPolicy()))
except MessageProcessingError as exc:
    print(exc.code, exc)
"""


@pytest.mark.parametrize(("ip", "says"), [("169.254.169.254", "url_refused"), ("10.0.0.7", "('10.0.0.7',)")])
def test_a_name_is_judged_by_the_address_it_leads_to(tmp_path: Path, ip: str, says: str) -> None:
    """In a mount namespace of its own, whose /etc/hosts knows the name."""
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{ip} camera.test\n")
    script = 'mount --bind "$1" /etc/hosts && exec "$2" -c "$3"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(hosts), sys.executable, _ASK]
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:  # noqa: S607
        pytest.skip("needs a mount namespace: Linux, and root")

    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)

    assert answer.stdout.startswith(says)
    assert ip in answer.stdout
