import asyncio
import gzip
import ipaddress
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.http_archives import ArchiveServer, new_source, serving, unpacked
from support.tiny_models import zip_bytes

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.exceptions import ArchiveDownloadError, DetectorWorkerError, ModelLoadError
from detector_worker.models.archives.unpacking import ArchiveLimits

ARCHIVE = zip_bytes({"pipeline.json": b"{}"})
NOT_HERE = NetworkPolicy(denied=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")))


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ArchiveServer]:
    async with serving() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


async def test_a_name_is_resolved_once_and_through_the_guard(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", ARCHIVE)
    url = server.url("/a.mpta", host="localhost")
    (await new_source(cache).fetch(url)).close()

    with pytest.raises(DetectorWorkerError, match="must not connect"):
        await new_source(cache, network_policy=NOT_HERE).fetch(url)


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
async def test_a_numeric_address_in_any_notation_passes_the_guard(
    server: ArchiveServer, cache: Path, host: str
) -> None:
    with pytest.raises(DetectorWorkerError, match="must not connect"):
        await new_source(cache, network_policy=NOT_HERE).fetch(server.url("/a.mpta", host=host))
    assert server.requests == []


async def test_a_metadata_address_is_never_asked(cache: Path) -> None:
    with pytest.raises(DetectorWorkerError, match="must not connect"):
        await new_source(cache).fetch("http://169.254.169.254/latest/a.mpta")


@pytest.mark.parametrize("status", [204, 400, 404, 500])
async def test_another_answer_than_the_archive_is_an_error_without_secrets(
    server: ArchiveServer, cache: Path, status: int
) -> None:
    server.put("/a.mpta", ARCHIVE).status = status
    with pytest.raises(ArchiveDownloadError, match=f"answered {status}") as caught:
        await new_source(cache).fetch(server.url("/a.mpta?token=canary", user="user:canary@"))

    assert "canary" not in str(caught.value)


# Redirects


def redirect(server: ArchiveServer, path: str, location: str, status: int = 302) -> None:
    served = server.put(path, b"")
    served.status, served.location = status, location


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(server: ArchiveServer, cache: Path, status: int) -> None:
    redirect(server, "/moved.mpta", "/a.mpta", status)
    server.put("/a.mpta", ARCHIVE, etag='"1"')
    for _ in range(2):
        (await new_source(cache).fetch(server.url("/moved.mpta"))).close()

    assert server.answers == [status, 200, status, 304]


async def test_three_redirects_are_followed_and_no_more(server: ArchiveServer, cache: Path) -> None:
    for number in range(4):
        redirect(server, f"/{number}", f"/{number + 1}")
    server.put("/4", ARCHIVE)

    (await new_source(cache).fetch(server.url("/1"))).close()
    with pytest.raises(ModelLoadError, match="more than 3 times"):
        await new_source(cache).fetch(server.url("/0"))
    redirect(server, "/loop", "/loop")
    with pytest.raises(ModelLoadError, match="more than 3 times"):
        await new_source(cache).fetch(server.url("/loop"))


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest", "//100.100.100.200/x", "http://[fd00:ec2::254]/"])
async def test_a_redirect_to_a_metadata_address_is_refused(server: ArchiveServer, cache: Path, target: str) -> None:
    redirect(server, "/a.mpta", target)

    with pytest.raises(DetectorWorkerError, match="must not connect"):
        await new_source(cache).fetch(server.url("/a.mpta"))


async def test_each_hop_is_checked_by_name_as_well(cache: Path) -> None:
    """The first host is allowed, the one that its redirect names is not."""
    policy = NetworkPolicy(allowed=(ipaddress.ip_network("127.0.0.1/32"),))
    async with serving() as server:
        redirect(server, "/a.mpta", server.url("/b.mpta", host="127.0.0.2"))
        server.put("/b.mpta", ARCHIVE)
        with pytest.raises(DetectorWorkerError, match=r"127\.0\.0\.2, where this worker must not connect"):
            await new_source(cache, network_policy=policy).fetch(server.url("/a.mpta"))
        assert server.asked("/b.mpta") == 0


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "", "http://", "http://a b/"])
async def test_a_redirect_to_what_is_no_http_address_is_refused(
    server: ArchiveServer, cache: Path, target: str
) -> None:
    redirect(server, "/a.mpta", target)

    with pytest.raises(DetectorWorkerError):
        await new_source(cache).fetch(server.url("/a.mpta"))
    assert unpacked(cache) == set()


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """Of a server that signs for itself."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = builder.not_valid_before(now).not_valid_after(now + timedelta(hours=1)).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file = tmp_path / "server.pem"
    file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_a_redirect_never_leaves_tls(server: ArchiveServer, cache: Path, tls: ssl.SSLContext) -> None:
    server.put("/a.mpta", ARCHIVE)
    async with serving(tls) as secure:
        redirect(secure, "/down", server.url("/a.mpta"))
        redirect(secure, "/on", secure.url("/a.mpta"))
        secure.put("/a.mpta", ARCHIVE)
        source = new_source(cache, network_policy=NetworkPolicy(verify_certificates=False))
        (await source.fetch(secure.url("/on"))).close()
        with pytest.raises(ModelLoadError, match="from https to http"):
            await source.fetch(secure.url("/down"))
        with pytest.raises(ModelLoadError, match="Certificate"):
            await new_source(cache).fetch(secure.url("/a.mpta?other"))
    assert server.requests == []


async def test_credentials_stay_with_their_server(server: ArchiveServer, cache: Path) -> None:
    server.put("/same.mpta", ARCHIVE)
    server.put("/other.mpta", ARCHIVE)
    redirect(server, "/1", "/same.mpta")
    redirect(server, "/2", server.url("/same.mpta"))
    redirect(server, "/3", server.url("/other.mpta", host="localhost"))
    for number in "123":
        (await new_source(cache).fetch(server.url(f"/{number}", user="user:canary@"))).close()

    carried = {request.path: "Authorization" in request.headers for request in server.requests}
    assert carried == {"/1": True, "/2": True, "/3": True, "/same.mpta": True, "/other.mpta": False}


# Sizes and times


async def test_a_size_told_beforehand_is_refused_before_it_is_read(server: ArchiveServer, cache: Path) -> None:
    served = server.put("/a.mpta", b"x")
    served.claimed_bytes = 1 << 40
    with pytest.raises(ModelLoadError, match="larger than 1 MiB"):
        await new_source(cache, limits=ArchiveLimits(archive_bytes=1 << 20)).fetch(server.url("/a.mpta"))


async def test_an_endless_archive_is_cut_off(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", b"").endless = bytes(1 << 16)

    with pytest.raises(ModelLoadError, match="larger than 1 MiB"):
        await new_source(cache, limits=ArchiveLimits(archive_bytes=1 << 20)).fetch(server.url("/a.mpta"))

    assert unpacked(cache) == set()


@pytest.mark.parametrize("claimed", [len(ARCHIVE) - 10, len(ARCHIVE) + 10])
async def test_a_size_that_is_a_lie_is_refused(server: ArchiveServer, cache: Path, claimed: int) -> None:
    server.put("/a.mpta", ARCHIVE).claimed_bytes = claimed

    with pytest.raises(ModelLoadError):
        await new_source(cache).fetch(server.url("/a.mpta"))
    assert unpacked(cache) == set()


async def test_a_dripping_server_is_given_up(server: ArchiveServer, cache: Path) -> None:
    served = server.put("/a.mpta", b"")
    served.endless, served.pause_s = b"x", 0.02

    with pytest.raises(ModelLoadError, match=r"within 0\.3 s"):
        await new_source(cache, download_timeout_s=0.3).fetch(server.url("/a.mpta"))


async def test_the_time_covers_redirects(server: ArchiveServer, cache: Path) -> None:
    for number in range(3):
        redirect(server, f"/{number}", f"/{number + 1}")
        server.files[f"/{number}"].delay_s = 0.15
    server.put("/3", ARCHIVE)

    with pytest.raises(ModelLoadError, match=r"within 0\.3 s"):
        await new_source(cache, download_timeout_s=0.3).fetch(server.url("/0"))


async def test_a_compressed_answer_is_not_asked_for_and_not_inflated(server: ArchiveServer, cache: Path) -> None:
    bomb = gzip.compress(bytes(10 << 20))
    server.put("/a.mpta", bomb).headers = {"Content-Encoding": "gzip"}

    with pytest.raises(ModelLoadError, match="compressed"):
        await new_source(cache).fetch(server.url("/a.mpta"))
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


async def test_a_server_that_is_not_there_is_a_clear_error(cache: Path) -> None:
    async with serving() as server:
        url = server.url("/a.mpta")

    with pytest.raises(ModelLoadError, match="cannot be downloaded"):
        await new_source(cache).fetch(url)


FULL_DISK = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from support.http_archives import new_source
from detector_worker.core.exceptions import ModelLoadError
try:
    asyncio.run(new_source(Path(sys.argv[2])).fetch(sys.argv[1])).close()
except ModelLoadError as exc:
    print(exc)
"""


@pytest.mark.parametrize("what", ["download", "unpacking"])
async def test_a_full_disk_is_a_clear_error_and_leaves_nothing(
    server: ArchiveServer, tmp_path: Path, what: str
) -> None:
    """A small file system of its own; for the download, or with just not enough room for unpacking."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    size_kib = 512 if what == "download" else 1600
    mount = f"mount -t tmpfs -o size={size_kib}k none '{disk}'"
    server.put("/a.mpta", zip_bytes({"pipeline.json": b"{}", "a.onnx": os.urandom(1 << 20)}))
    script = f"{mount} && '{sys.executable}' \"$@\" && find '{disk}' -type f -size +0"
    tests = str(Path(__file__).parents[3])
    command = ["unshare", "-m", "sh", "-c", script, "sh", "-c", FULL_DISK, server.url("/a.mpta"), str(disk), tests]
    process = await _run(command)
    if "unshare" in process.stderr or "mount" in process.stderr:
        pytest.skip("no mount namespaces here")

    assert "No space left on device" in process.stdout
    assert process.stdout.count("\n") == 1
    assert process.stderr == ""


async def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
