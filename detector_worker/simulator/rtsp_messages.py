"""RTSP's requests and responses (RFC 2326)."""

import asyncio
from dataclasses import dataclass
from typing import Final

__all__ = ["Request", "read_request", "response"]

_MAX_BODY_BYTES: Final = 65_536
_REASONS: Final = {
    200: "OK",
    401: "Unauthorized",
    404: "Not Found",
    454: "Session Not Found",
    461: "Unsupported Transport",
    501: "Not Implemented",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names in lower case."""

    method: str
    url: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        """The URL's first folder, which names the camera: ``rtsp://host/cam-1/trackID=0`` gives ``cam-1``."""
        rest = self.url.partition("://")[2].partition("/")[2]
        return rest.partition("?")[0].partition("/")[0]


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read the next request; what the client reports about its reception (packets after ``$``) is skipped.

    Raises:
        EOFError: The client has gone (`asyncio.IncompleteReadError`).
        ValueError: It does not speak RTSP, or too much of it.
    """
    while (first := await reader.readexactly(1)) == b"$":
        header = await reader.readexactly(3)
        await reader.readexactly(int.from_bytes(header[1:], "big"))
    try:
        head = first + await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as exc:
        raise ValueError("head too long") from exc
    start, *lines = head.decode("utf-8", "replace").strip().split("\r\n")
    method, url, _ = start.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body_bytes = int(headers.get("content-length", "0"))
    if not 0 <= body_bytes <= _MAX_BODY_BYTES:
        raise ValueError("body too long")
    await reader.readexactly(body_bytes)
    return Request(method, url, headers)


def response(request: Request, status: int, headers: dict[str, str], body: str = "") -> bytes:
    """Write the answer to a request."""
    fields = {"CSeq": request.headers.get("cseq", "0"), **headers, "Content-Length": str(len(body.encode()))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"RTSP/1.0 {status} {_REASONS[status]}\r\n{head}\r\n{body}".encode()
