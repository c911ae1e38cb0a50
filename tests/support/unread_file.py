"""A file that nobody may read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["unread_file"]


@contextmanager
def unread_file(folder: Path) -> Iterator[Path]:
    """A pipe: whoever opens it to read hangs until it is written to, and is found at the end."""
    path = folder / "secret"
    os.mkfifo(path)
    yield path
    with pytest.raises(OSError, match="No such device"):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
