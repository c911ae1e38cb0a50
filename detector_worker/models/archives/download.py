"""Fetching an archive over HTTP, within bounds, from where the worker may."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

import aiohttp

from detector_worker.core.addresses import Address, NetworkPolicy, check_if_numeric
from detector_worker.core.exceptions import ModelLoadError
from detector_worker.core.http_client import new_session
from detector_worker.models.archives.unpacking import TEMPORARY

__all__ = ["downloaded"]

_CHUNK_BYTES: Final = 1 << 20


@asynccontextmanager
async def downloaded(
    address: Address, folder: Path, policy: NetworkPolicy, *, max_bytes: int, timeout_s: float
) -> AsyncIterator[Path]:
    """Download into a temporary file of an existing folder, which is gone afterwards. Redirects are not followed.

    Raises:
        ModelLoadError: It cannot be had, or is too large or too slow.
        MessageProcessingError: The address leads where the worker must not connect.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=TEMPORARY) as file:
        try:
            async with asyncio.timeout(timeout_s):
                await _fetch(address, file, policy, max_bytes)
        except TimeoutError as exc:
            what, mend = f"did not arrive within {timeout_s:g} s", "raise pipelines.download_timeout_seconds"
            raise _failure(address, what, f"Check its server, or {mend}.") from exc
        except (aiohttp.ClientError, OSError) as exc:
            what = f"cannot be downloaded ({type(exc).__name__})"
            raise _failure(address, what, "Check the address and that its server is up.") from exc
        file.flush()
        yield Path(file.name)


async def _fetch(address: Address, file: IO[bytes], policy: NetworkPolicy, max_bytes: int) -> None:
    check_if_numeric(address, policy)
    async with (
        new_session(policy) as session,
        session.get(address.secret(), allow_redirects=False) as response,
    ):
        if response.status != 200:
            mend = "Give the archive's own address; redirects are not followed."
            raise _failure(address, f"was asked for, and the server answered {response.status}", mend)
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            if file.tell() + len(chunk) > max_bytes:
                mend = "Make it smaller, or raise pipelines.max_archive_bytes."
                raise _failure(address, f"is larger than {max_bytes >> 20} MiB", mend)
            await asyncio.to_thread(file.write, chunk)


def _failure(address: Address, what: str, mend: str) -> ModelLoadError:
    return ModelLoadError(f"The archive {what}", where=str(address), mend=mend)
