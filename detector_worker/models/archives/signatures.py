"""Ed25519 signatures over the whole bytes of an archive: made with ``mpta sign``, checked before it is opened.

A signature is a file beside the archive, ``<name>.sig``: base64 of 64 bytes, and a newline. Keys are PEM (PKCS #8, not
encrypted) for whoever signs, base64 of 32 bytes for whoever checks.
"""

import base64
import binascii
import io
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from detector_worker.core.exceptions import ConfigurationError, ModelLoadError

__all__ = [
    "MAX_SIGNATURE_BYTES",
    "new_private_key",
    "open_regular",
    "public_key_text",
    "read_regular",
    "sign",
    "signature_path",
    "verify",
]

MAX_SIGNATURE_BYTES: Final = 1024
_MAX_KEY_BYTES: Final = 16 << 10
_MAX_ARCHIVE_BYTES: Final = 4 << 30
_MEND: Final = "Fetch it again from its maker, or ask them; sign only what you have checked."


def new_private_key(path: Path) -> None:
    """Make a key and write it where no file is yet, readable for its owner alone; ConfigurationError: it cannot be."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:  # noqa: PTH123 - readable for others at no moment
            file.write(pem)
            os.fsync(file.fileno())
    except FileExistsError as exc:
        what, mend = "A file is there already, and keys are never overwritten", "Choose another name."
        raise ConfigurationError(what, where=f"key {path}", mend=mend) from exc
    except OSError as exc:
        what, mend = f"The key cannot be written: {exc.strerror}", "Choose a folder that may be written to."
        raise ConfigurationError(what, where=f"key {path}", mend=mend) from exc


def public_key_text(key: Path) -> str:
    """Return the public half of a private key's file, as ``pipelines.trusted_keys`` wants it.

    Raises:
        ConfigurationError: There is no such file, or no Ed25519 key in it that can be read without a password.
    """
    return base64.b64encode(_read_key(key).public_key().public_bytes_raw()).decode()


def sign(archive: Path, key: Path) -> Path:
    """Write the signature beside an archive, over an older one; returns its path. The archive is read into memory.

    Raises:
        ConfigurationError: As `public_key_text`.
        ModelLoadError: The archive cannot be read, or the signature not written.
    """
    private_key, target = _read_key(key), signature_path(archive)
    try:
        signature = private_key.sign(read_regular(archive, _MAX_ARCHIVE_BYTES))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(target, flags, 0o644), "wb") as file:  # noqa: PTH123 - never through a link
            file.write(base64.b64encode(signature) + b"\n")
    except OSError as exc:
        what, mend = f"The archive cannot be signed: {exc.strerror or exc}", "Check the path and who may write there."
        raise ModelLoadError(what, where=f"archive {archive.name!r}", mend=mend) from exc
    return target


def verify(archive: Path, signature: bytes, trusted_keys: Sequence[str], *, where: str) -> str:
    """Return which of the keys has signed an archive.

    Args:
        archive: A file that nobody changes meanwhile: it is mapped, as the algorithm wants all bytes at once.
        signature: The content of the ``.sig`` file.
        trusted_keys: Base64 of 32 bytes each.
        where: Of errors.

    Raises:
        ModelLoadError: None of them has, or the signature cannot be read.
    """
    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 64:
        raise ModelLoadError("The archive's signature is none: base64 of 64 bytes is wanted", where=where, mend=_MEND)
    try:
        with open_regular(archive) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for key in trusted_keys:
                if _is_signed_by(key, raw, mapped):
                    return key
    except (OSError, ValueError) as exc:  # of mmap: the file is empty
        what = f"The archive cannot be read: {getattr(exc, 'strerror', None) or exc}"
        raise ModelLoadError(what, where=where, mend="Give the path of an archive.") from exc
    what = "The archive was changed after it was signed, or signed by a key that is not trusted here"
    raise ModelLoadError(what, where=where, mend=_MEND)


def _is_signed_by(key: str, signature: bytes, mapped: mmap.mmap) -> bool:
    with memoryview(mapped) as content:
        try:
            Ed25519PublicKey.from_public_bytes(base64.b64decode(key)).verify(signature, content)
        except (InvalidSignature, ValueError):
            return False
    return True


def signature_path(archive: Path) -> Path:
    """Return where the signature of an archive lies."""
    return archive.with_name(f"{archive.name}.sig")


def open_regular(path: Path, *, follow: bool = True) -> io.BufferedReader:
    """Open a file; a pipe or a device does not hold us up. OSError: it is none, or a link where none is followed."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    file = open(os.open(path, flags), "rb")  # noqa: SIM115, PTH123 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is no regular file")
    return file


def read_regular(path: Path, max_bytes: int, *, follow: bool = True) -> bytes:
    """Read a file as `open_regular` opens it; OSError: it cannot be, or is larger."""
    with open_regular(path, follow=follow) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"it is larger than {max_bytes} bytes")
    return content


def _read_key(path: Path) -> Ed25519PrivateKey:
    where, mend = f"key {path}", "Give an Ed25519 key in PEM form (PKCS #8), a file of its own."
    try:
        key = serialization.load_pem_private_key(read_regular(path, _MAX_KEY_BYTES, follow=False), password=None)
    except OSError as exc:
        what = f"The private key cannot be read: {exc.strerror or exc}"
        raise ConfigurationError(what, where=where, mend=mend) from exc
    except TypeError as exc:
        mend = "Take the password off, with: openssl pkey -in KEY -out PLAIN."
        raise ConfigurationError("The private key is encrypted", where=where, mend=mend) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigurationError("The file holds no private key in PEM form", where=where, mend=mend) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError("The private key is of another kind than Ed25519", where=where, mend=mend)
    return key
