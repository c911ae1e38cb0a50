"""Folders that the embedded servers may use."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["open_folder"]


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a temporary folder that every account may pass through, and remove it afterwards.

    pytest's own are closed to the account that servers take when the tests run as root.
    """
    folder = Path(tempfile.mkdtemp(prefix="dw-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
