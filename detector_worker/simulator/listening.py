"""Where a small web server listens."""

from aiohttp import web

from detector_worker.core.exceptions import ServiceError

__all__ = ["start_listening"]


async def start_listening(runner: web.AppRunner, host: str, port: int, *, what: str, mend: str) -> int:
    """Start a server and return its port, which is any free one where ``port`` is 0.

    Raises:
        ServiceError: It cannot listen there, in the words given; the runner has been cleaned up.
    """
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as exc:
        await runner.cleanup()
        raise ServiceError(f"{what}: {exc.strerror}", where=f"{host}:{port}", mend=mend) from exc
    return int(runner.addresses[0][1])
