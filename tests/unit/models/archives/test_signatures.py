import asyncio
import base64
import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from support.http_archives import ArchiveServer, new_source, serving, unpacked
from support.tiny_models import zip_bytes

from detector_worker.core.exceptions import ConfigurationError, DetectorWorkerError, ModelLoadError
from detector_worker.models.archives.signatures import new_private_key, public_key_text, sign, verify

ARCHIVE = zip_bytes({"pipeline.json": b"{}"})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ArchiveServer]:
    async with serving() as running:
        yield running


def new_key(folder: Path, name: str = "key.pem") -> Path:
    new_private_key(folder / name)
    return folder / name


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return new_key(tmp_path)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.mpta"
    path.write_bytes(ARCHIVE)
    return path


# Keys and signatures


def test_a_signature_is_that_of_another_implementation(archive: Path, key: Path, tmp_path: Path) -> None:
    """OpenSSL's own program agrees."""
    signature = sign(archive, key)
    raw, public = tmp_path / "raw", tmp_path / "public.pem"
    raw.write_bytes(base64.b64decode(signature.read_bytes()))
    for command in (
        ["openssl", "pkey", "-in", str(key), "-pubout", "-out", str(public)],
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin", "-in", str(archive)],
    ):
        more = ["-sigfile", str(raw)] if "pkeyutl" in command else []
        subprocess.run([*command, *more], check=True, capture_output=True)
    assert signature == archive.with_name("a.mpta.sig")
    assert len(signature.read_bytes()) == 89


def test_a_key_is_readable_for_its_owner_alone_and_never_overwritten(tmp_path: Path, key: Path) -> None:
    before = key.read_bytes()

    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert before.startswith(b"-----BEGIN PRIVATE KEY-----")
    with pytest.raises(ConfigurationError, match="never overwritten"):
        new_private_key(key)
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(ConfigurationError):
        new_private_key(tmp_path / "link")
    assert key.read_bytes() == before
    with pytest.raises(ConfigurationError, match="cannot be written"):
        new_private_key(tmp_path / "absent" / "key.pem")


def test_the_public_key_is_as_settings_want_it(key: Path) -> None:
    text = public_key_text(key)

    assert len(base64.b64decode(text, validate=True)) == 32
    assert len(text) == 44


def pem(private_key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> bytes:
    return private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption(),
    )


BAD_KEYS: dict[str, tuple[Callable[[], bytes], str]] = {
    "no PEM": (lambda: b"something else", "no private key"),
    "empty": (lambda: b"", "no private key"),
    "binary": (lambda: os.urandom(300), "no private key"),
    "encrypted": (lambda: pem(ed25519.Ed25519PrivateKey.generate(), b"password"), "encrypted"),
    "RSA": (lambda: pem(rsa.generate_private_key(65537, 2048)), "another kind"),
    "public": (
        lambda: (
            ed25519.Ed25519PrivateKey.generate()
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        ),
        "no private key",
    ),
    "large": (lambda: bytes(1 << 20), "larger than"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_what_is_no_key_is_a_clear_error(tmp_path: Path, archive: Path, name: str) -> None:
    path, (content, what) = tmp_path / "bad.pem", BAD_KEYS[name]
    path.write_bytes(content())

    for use in (lambda: sign(archive, path), lambda: public_key_text(path)):
        with pytest.raises(ConfigurationError, match=what) as caught:
            use()
        assert caught.value.mend
    assert not archive.with_name("a.mpta.sig").exists()


def test_a_key_that_is_absent_a_link_or_a_folder_is_a_clear_error(tmp_path: Path, key: Path, archive: Path) -> None:
    (tmp_path / "link.pem").symlink_to(key)
    for path in (tmp_path / "absent.pem", tmp_path / "link.pem", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            sign(archive, path)


def test_an_archive_that_is_absent_or_a_signature_that_is_a_link_is_a_clear_error(
    tmp_path: Path, key: Path, archive: Path
) -> None:
    with pytest.raises(ModelLoadError, match="No such file"):
        sign(tmp_path / "absent.mpta", key)
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / "a.mpta.sig").symlink_to(victim)
    with pytest.raises(ModelLoadError):
        sign(archive, key)
    assert victim.read_text() == "kept"


@pytest.mark.parametrize("change", ["byte", "longer", "shorter"])
def test_any_change_of_the_archive_is_seen(archive: Path, key: Path, change: str) -> None:
    signature, trusted = sign(archive, key).read_bytes(), [public_key_text(key)]
    assert verify(archive, signature, trusted, where="") == trusted[0]
    changed = {"byte": b"Q" + ARCHIVE[1:], "longer": ARCHIVE + b"\0", "shorter": ARCHIVE[:-1]}[change]
    archive.write_bytes(changed)

    with pytest.raises(ModelLoadError, match="changed after it was signed") as caught:
        verify(archive, signature, trusted, where="")
    assert caught.value.mend == "Fetch it again from its maker, or ask them; sign only what you have checked."


@pytest.mark.parametrize("signature", [b"", b"\n", b"x", b"A" * 88, b"A" * 86 + b"==", b"\xff" * 89, bytes(89)])
def test_what_is_no_signature_verifies_nothing(archive: Path, key: Path, signature: bytes) -> None:
    with pytest.raises(ModelLoadError):
        verify(archive, signature, [public_key_text(key)], where="")


def test_an_archive_that_is_absent_empty_or_no_file_verifies_nothing(tmp_path: Path, archive: Path, key: Path) -> None:
    signature, trusted = sign(archive, key).read_bytes(), [public_key_text(key)]
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent", "empty", "pipe", "."):
        with pytest.raises(ModelLoadError, match="cannot be read"):
            verify(tmp_path / name, signature, trusted, where="")


# Archives that must be signed


def replace_content(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def test_signed_archives_load_and_others_do_not(
    server: ArchiveServer, cache: Path, archive: Path, key: Path
) -> None:
    other, stranger = new_key(cache.parent, "other.pem"), new_key(cache.parent, "stranger.pem")
    source = new_source(cache, trusted_keys=(public_key_text(other), public_key_text(key)))
    server.put("/a.mpta", ARCHIVE)
    for url in (server.url("/a.mpta?token=x"), str(archive)):
        with pytest.raises(ModelLoadError, match="sign"):
            await source.fetch(url)
        server.put("/a.mpta.sig", sign(archive, stranger).read_bytes())
        with pytest.raises(ModelLoadError, match="not trusted"):
            await source.fetch(url)
        archive.with_name("a.mpta.sig").unlink()
    assert unpacked(cache) == set()

    server.put("/a.mpta.sig", sign(archive, key).read_bytes())
    for url in (server.url("/a.mpta?token=x"), str(archive)):
        with await source.fetch(url) as fetched:
            assert (fetched.folder / "pipeline.json").is_file()
    assert {request.path_qs for request in server.requests} == {"/a.mpta?token=x", "/a.mpta.sig?token=x"}


@pytest.mark.parametrize("status", [404, 410])
async def test_an_unsigned_archive_is_told_alike_from_a_server_and_a_file(
    server: ArchiveServer, cache: Path, archive: Path, key: Path, status: int
) -> None:
    source = new_source(cache, trusted_keys=(public_key_text(key),))
    server.put("/a.mpta", ARCHIVE)
    server.put("/a.mpta.sig", b"").status = status
    with pytest.raises(ModelLoadError) as of_file:
        await source.fetch_path(archive)
    with pytest.raises(ModelLoadError) as of_server:
        await source.fetch(server.url("/a.mpta", user="me:canary@"))

    assert type(of_server.value) is ModelLoadError
    assert (of_server.value.what, of_server.value.where) == (of_file.value.what, of_file.value.where)
    assert "a.mpta.sig." in str(of_server.value.mend)
    assert "canary" not in str(of_server.value)


@pytest.mark.parametrize("status", [403, 500])
async def test_a_signature_that_cannot_be_had_is_not_told_as_absent(
    server: ArchiveServer, cache: Path, key: Path, status: int
) -> None:
    server.put("/a.mpta", ARCHIVE)
    server.put("/a.mpta.sig", b"").status = status

    with pytest.raises(ModelLoadError, match=f"The signature was asked for, and the server answered {status}"):
        await new_source(cache, trusted_keys=(public_key_text(key),)).fetch(server.url("/a.mpta"))


async def test_it_is_verified_before_it_is_opened(cache: Path, archive: Path, key: Path) -> None:
    sign(archive, key)
    replace_content(archive, b"no ZIP at all")

    with pytest.raises(ModelLoadError, match="changed after it was signed"):
        await new_source(cache, trusted_keys=(public_key_text(key),)).fetch_path(archive)


async def test_without_trusted_keys_signatures_do_not_matter(server: ArchiveServer, cache: Path, archive: Path) -> None:
    archive.with_name("a.mpta.sig").write_bytes(b"nonsense")
    server.put("/a.mpta", ARCHIVE)

    for url in (str(archive), server.url("/a.mpta")):
        (await new_source(cache).fetch(url)).close()
    assert server.asked("/a.mpta.sig") == 0


async def test_what_was_unpacked_unsigned_does_not_load_when_keys_are_set(
    server: ArchiveServer, cache: Path, archive: Path, key: Path
) -> None:
    server.put("/a.mpta", ARCHIVE, etag='"1"')
    for url in (str(archive), server.url("/a.mpta")):
        (await new_source(cache).fetch(url)).close()
        with pytest.raises(ModelLoadError, match="sign"):
            await new_source(cache, trusted_keys=(public_key_text(key),)).fetch(url)
    assert "If-None-Match" not in server.requests[-2].headers  # without the bytes nothing could be verified


async def test_what_was_verified_by_a_key_that_is_trusted_no_more_does_not_load(
    tmp_path: Path, server: ArchiveServer, cache: Path, archive: Path, key: Path
) -> None:
    server.put("/a.mpta", ARCHIVE, etag='"1"')
    server.put("/a.mpta.sig", sign(archive, key).read_bytes())
    new = public_key_text(new_key(tmp_path, "new.pem"))
    for url in (str(archive), server.url("/a.mpta")):
        (await new_source(cache, trusted_keys=(public_key_text(key),)).fetch(url)).close()
        with pytest.raises(ModelLoadError, match="not trusted"):
            await new_source(cache, trusted_keys=(new,)).fetch(url)
    server.files["/a.mpta"].status = 503  # nor as a copy of before
    with pytest.raises(ModelLoadError, match="503"):
        await new_source(cache, trusted_keys=(new,)).fetch(url)


async def test_a_verified_archive_is_used_again_without_a_download(
    server: ArchiveServer, cache: Path, archive: Path, key: Path
) -> None:
    server.put("/a.mpta", ARCHIVE, etag='"1"')
    server.put("/a.mpta.sig", sign(archive, key).read_bytes())
    for _ in range(2):
        (await new_source(cache, trusted_keys=(public_key_text(key),)).fetch(server.url("/a.mpta"))).close()

    assert server.answers == [200, 200, 304]


async def test_a_failed_signature_leaves_no_stale_copy(
    server: ArchiveServer, cache: Path, archive: Path, key: Path
) -> None:
    server.put("/a.mpta", ARCHIVE, etag='"1"')
    server.put("/a.mpta.sig", sign(archive, key).read_bytes())
    source = new_source(cache, trusted_keys=(public_key_text(key),))
    (await source.fetch(server.url("/a.mpta"))).close()
    server.put("/a.mpta", zip_bytes({"pipeline.json": b"{ }"}), etag='"2"')

    with pytest.raises(ModelLoadError, match="changed after it was signed"):
        await source.fetch(server.url("/a.mpta"))


@pytest.mark.parametrize("size", [1025, None])
async def test_a_large_or_endless_signature_is_not_read(
    server: ArchiveServer, cache: Path, key: Path, size: int | None
) -> None:
    server.put("/a.mpta", ARCHIVE)
    served = server.put("/a.mpta.sig", b"A" * (size or 0))
    served.endless = None if size else b"A" * 100

    with pytest.raises(ModelLoadError, match="signature is larger than 1024 bytes"):
        await new_source(cache, trusted_keys=(public_key_text(key),)).fetch(server.url("/a.mpta"))


async def test_a_signature_beside_a_file_that_is_large_or_no_file(cache: Path, archive: Path, key: Path) -> None:
    source = new_source(cache, trusted_keys=(public_key_text(key),))
    beside = archive.with_name("a.mpta.sig")
    beside.write_bytes(sign(archive, key).read_bytes() + bytes(2000))
    with pytest.raises(ModelLoadError, match="not signed"):
        await source.fetch_path(archive)
    beside.unlink()
    os.mkfifo(beside)
    with pytest.raises(ModelLoadError, match="not signed"):
        await source.fetch_path(archive)


async def test_the_bytes_that_were_verified_are_the_bytes_that_are_unpacked(
    tmp_path: Path, cache: Path, archive: Path, key: Path
) -> None:
    """Another process swaps the file for an unsigned one of the same size, again and again."""
    sign(archive, key)
    evil = zip_bytes({"pipeline.json": b"[]"})
    assert len(evil) == len(ARCHIVE)
    (tmp_path / "evil").write_bytes(evil)
    (tmp_path / "good").write_bytes(ARCHIVE)
    swapping = """
import sys
from pathlib import Path
target, *contents = (Path(name) for name in sys.argv[1:])
contents = [path.read_bytes() for path in contents]
with target.open("r+b", buffering=0) as file:
    while True:
        for content in contents:
            file.seek(0)
            file.write(content)
"""
    command = [sys.executable, "-c", swapping, *(str(path) for path in (archive, tmp_path / "evil", tmp_path / "good"))]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        for _ in range(60):
            source = new_source(cache, trusted_keys=(public_key_text(key),))
            with contextlib.suppress(DetectorWorkerError):
                with await source.fetch_path(archive) as fetched:
                    assert (fetched.folder / "pipeline.json").read_bytes() == b"{}"
                shutil.rmtree(fetched.folder)
                shutil.rmtree(cache / "signers")
    finally:
        process.kill()
        await process.wait()
