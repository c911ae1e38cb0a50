"""Ctrl-C and SIGTERM for commands that serve."""

import asyncio
import signal

__all__ = ["until_interrupted"]


async def until_interrupted() -> None:
    """Wait for SIGINT or SIGTERM; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()

    def interrupt() -> None:
        interrupted.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    await interrupted.wait()
