"""One run of a piece of work for all who ask for it at the same time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, Self, TypeVar

__all__ = ["SingleFlight"]


class _Shared(Protocol):
    """A result of which each waiter gets a share of its own."""

    def share(self) -> Self: ...
    def close(self) -> None: ...


_T = TypeVar("_T", bound=_Shared)


class SingleFlight(Generic[_T]):
    """Runs work once for each key at a time. The tasks are its own: each ends when nobody waits for it any more."""

    def __init__(self) -> None:
        self._flights: dict[str, tuple[asyncio.Task[_T], set[object]]] = {}

    async def join(self, key: str, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Return a share of the result of ``work``, or raise its error; whoever is cancelled disturbs no other."""
        if key not in self._flights or self._flights[key][0].done():
            self._flights[key] = asyncio.create_task(work()), set()
        flight = task, waiters = self._flights[key]
        myself = object()
        waiters.add(myself)
        try:
            return (await asyncio.shield(task)).share()
        finally:
            waiters.remove(myself)
            if not waiters:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                await _end(task)


async def _end(task: asyncio.Task[_T]) -> None:
    """Stop what is still under way, and give back the result of which all have had their share."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        task.result().close()
