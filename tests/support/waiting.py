"""Waiting for what another process or task is about to do."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

__all__ = ["wait_until", "wait_until_sync"]

_INTERVAL_S = 0.02


async def wait_until(condition: Callable[[], object | Awaitable[object]], *, timeout_s: float = 5.0) -> None:
    """Return once ``condition`` is true; it may be a plain function or a coroutine function.

    Raises:
        AssertionError: It was not true within ``timeout_s`` seconds.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {inspect.getsource(condition).strip()}"
        await asyncio.sleep(_INTERVAL_S)


def wait_until_sync(condition: Callable[[], object], *, timeout_s: float = 5.0) -> None:
    """As `wait_until`, for tests without an event loop."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {inspect.getsource(condition).strip()}"
        time.sleep(_INTERVAL_S)
