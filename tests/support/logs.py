"""The logging set-up of the process, lent to one test."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["own_logging"]

_SET_BY_US = ("", "uvicorn.error", "websockets")


@contextmanager
def own_logging() -> Iterator[None]:
    """Begin without handlers, and put everything back at the end."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {name: logging.getLogger(name).level for name in _SET_BY_US}
    root.handlers.clear()
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        logging.captureWarnings(capture=False)
