"""Compiled models on disk, so that the second start is fast.

OpenVINO's own cache gave a damaged file back as a model that answered NaN; here a checksum covers every byte. A cache
is as trusted as the code beside it: who can write there could do worse.
"""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Final

from detector_worker.models.kept_files import write_atomically

__all__ = ["CompiledCache"]

_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class CompiledCache:
    """Blobs by whatever makes them what they are; the longest unused go first. Thread-safe; processes may share it.

    Args:
        folder: Made when needed.
        budget_bytes: What all blobs together may take.
    """

    def __init__(self, folder: Path, *, budget_bytes: int = 512 << 20) -> None:
        self._folder, self._budget_bytes = folder, budget_bytes

    def load(self, key: str) -> bytes | None:
        """Return what was stored under a key; None where it is absent, damaged or another key's."""
        path = self._path(key)
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            if content[:_DIGEST_BYTES] == _digest(key, memoryview(content)[_DIGEST_BYTES:]):
                os.utime(path)
                return content[_DIGEST_BYTES:]
        return None

    def store(self, key: str, blob: bytes) -> None:
        """Keep a blob; where that fails, the next start is as slow as this one."""
        if len(blob) + _DIGEST_BYTES <= self._budget_bytes:
            with contextlib.suppress(OSError):
                write_atomically(self._path(key), _digest(key, blob), blob)
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        states = {path: path.stat() for path in self._folder.glob("*.blob")}
        used_bytes = sum(state.st_size for state in states.values())
        for path in sorted(states, key=lambda one: states[one].st_mtime_ns):
            if used_bytes <= self._budget_bytes:
                return
            path.unlink(missing_ok=True)
            used_bytes -= states[path].st_size

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.blob"


def _digest(key: str, blob: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(blob)
    return digest.digest()
