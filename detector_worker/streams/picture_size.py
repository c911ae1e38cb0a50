"""How large a picture may be, whoever sends it: what is decoded takes memory for each of its pixels."""

from typing import Final

from detector_worker.core.exceptions import StreamError
from detector_worker.streams.stream_errors import stream_error

__all__ = ["MAX_PIXELS", "too_large"]

MAX_PIXELS: Final = 40_000_000


def too_large(wh: tuple[int, int] | None, *, where: str) -> StreamError:
    """Make the error for a picture over the limit; None: nobody knows its size any more."""
    claim = f"claims {wh[0]} x {wh[1]} pixels" if wh else "is too large"
    return stream_error("corrupt", f"The picture {claim}, refused undecoded (at most {MAX_PIXELS:,})", where=where)
