"""What a camera and FFmpeg say to each other before the first picture. Pure: bytes in, bytes out.

FFmpeg by itself would follow a redirect to any host, and send UDP to wherever an answer tells it. So it is given a
camera's answers only as they were understood here: written anew, without the headers that lead elsewhere.

Source: RFC 2326 (RTSP; section 10.12 is interleaving).
"""

import re
from collections import deque
from typing import Final

__all__ = ["Handshake", "NotRtspError", "RedirectedError"]

_MAX_HEAD_BYTES: Final = 32_768
_MAX_BODY_BYTES: Final = 262_144
_MAX_BYTES: Final = 2**20
"""Of all that a camera sends before the answer to PLAY."""
_STATUS_LINE: Final = re.compile(r"RTSP/\d\.\d +(\d{3})(?: (.*))?")
_REQUEST_LINE: Final = re.compile(r"[A-Z_]+ +\S+ +RTSP/\d\.\d")
_FIELD: Final = re.compile(r"([A-Za-z0-9_-]+)[ \t]*:[ \t]*(.*?)[ \t]*")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_NOT_PASSED: Final = frozenset({"location", "content-length"})
_TRANSPORT: Final = re.compile(r"[A-Za-z-]+(/[A-Za-z]+){0,2}")
_TRANSPORT_PARAMETER: Final = re.compile(r"unicast|(interleaved|client_port|server_port)=\d{1,5}(-\d{1,5})?")


class RedirectedError(Exception):
    """The camera answers with a redirect; ``location`` is its own word, and may hold a password."""

    def __init__(self, location: str) -> None:
        super().__init__("the camera redirects")
        self.location = location


class NotRtspError(Exception):
    """What the camera sends is no RTSP, or endless."""


class Handshake:
    """Follows one conversation until the answer to PLAY; from then on everything passes unchanged.

    Requests and answers are paired in their order: an answer that nobody asked for, and a request of the camera's
    own, are dropped. So FFmpeg cannot be further, or less far, than is known here.
    """

    def __init__(self, camera_ip: str) -> None:
        """Begin; ``camera_ip`` is the only place where FFmpeg may send UDP."""
        self._camera_ip = camera_ip
        self._asked: deque[str] = deque()
        self._from_client, self._from_camera = bytearray(), bytearray()
        self._lines: list[str] = []
        self._head_bytes = 0
        self._body_bytes: int | None = None
        self._has_track = False
        self._taken_bytes = 0
        self.status: int | None = None
        """Of the camera's last answer."""
        self.is_over = False
        """The camera has agreed to PLAY."""
        self.lacks_track = False
        """FFmpeg has found no track worth asking for; it wants to PLAY all the same."""

    def requests(self, data: bytes) -> bytes:
        """Take what FFmpeg sends and return what is to be passed to the camera: whole requests.

        Raises:
            NotRtspError: It is too long: this is not FFmpeg.
        """
        if self.is_over:
            return data
        self._from_client += data
        end = self._from_client.rfind(b"\r\n\r\n") + 4
        if end < 4:
            if len(self._from_client) > _MAX_HEAD_BYTES:
                raise NotRtspError("a request without end")
            return b""
        whole = bytes(self._from_client[:end])
        del self._from_client[:end]
        methods = (head.split(b" ", 1)[0].decode("latin-1") for head in whole.split(b"\r\n\r\n")[:-1])
        for method in methods:
            self._has_track = self._has_track or method == "SETUP"
            self.lacks_track = self.lacks_track or (method == "PLAY" and not self._has_track)
            if not method.startswith("RTSP/"):
                self._asked.append(method)
        return whole

    def answers(self, data: bytes) -> bytes:
        """Take what the camera sends, cut anywhere, and return what is to be passed to FFmpeg.

        Raises:
            RedirectedError: FFmpeg must not see this answer.
            NotRtspError: Nor this.
        """
        if self.is_over:
            return data
        self._from_camera += data
        self._taken_bytes += len(data)
        passed = []
        while not self.is_over and (part := self._next_part()) is not None:
            passed.append(part)
        if self.is_over:
            passed.append(bytes(self._from_camera))
            self._from_camera.clear()
        elif self._taken_bytes > _MAX_BYTES:
            raise NotRtspError("a conversation without end")
        return b"".join(passed)

    def _next_part(self) -> bytes | None:
        """Return what is passed of the next whole message or interleaved packet; None: it is not whole yet."""
        if not self._lines:
            if self._from_camera.startswith((b"\r", b"\n")):  # some cameras put empty lines between messages
                self._from_camera = self._from_camera.lstrip(b"\r\n")
            if self._from_camera.startswith(b"$"):
                return self._cut(4 + int.from_bytes(self._from_camera[2:4], "big"), least_bytes=4)
        if self._body_bytes is None and not self._has_whole_head():
            return None
        body = self._cut(self._body_bytes or 0)
        if body is None:
            return None
        start, *fields = self._lines
        self._lines, self._head_bytes, self._body_bytes = [], 0, None
        return self._answer(start, fields, body)

    def _cut(self, size_bytes: int, *, least_bytes: int = 0) -> bytes | None:
        if len(self._from_camera) < max(size_bytes, least_bytes):
            return None
        part = bytes(self._from_camera[:size_bytes])
        del self._from_camera[:size_bytes]
        return part

    def _has_whole_head(self) -> bool:
        """Take lines up to the empty one that ends a header, and learn how long the body is."""
        while (end := self._from_camera.find(b"\n")) >= 0:
            line = _CONTROL.sub("", self._from_camera[:end].decode("latin-1"))
            self._head_bytes += end + 1
            del self._from_camera[: end + 1]
            if line:
                self._lines.append(line)
            elif self._lines:
                self._body_bytes = self._announced_bytes()
                return True
            if self._head_bytes > _MAX_HEAD_BYTES:
                break
        if self._head_bytes + len(self._from_camera) > _MAX_HEAD_BYTES:
            raise NotRtspError("a header without end")
        return False

    def _announced_bytes(self) -> int:
        sizes = {value for name, value in _fields(self._lines[1:]) if name.lower() == "content-length"} or {"0"}
        size = sizes.pop()
        if sizes or not re.fullmatch("[0-9]{1,7}", size) or int(size) > _MAX_BODY_BYTES:
            raise NotRtspError("a body of unclear or excessive length")
        return int(size)

    def _answer(self, start: str, lines: list[str], body: bytes) -> bytes:
        status_line = _STATUS_LINE.fullmatch(start.strip())
        if status_line is None:
            if _REQUEST_LINE.fullmatch(start.strip()):
                return b""
            raise NotRtspError("neither an answer nor a request")
        if not self._asked:
            return b""
        method, self.status = self._asked.popleft(), int(status_line[1])
        fields = _fields(lines)
        if 300 <= self.status < 400:
            raise RedirectedError(next((value for name, value in fields if name.lower() == "location"), ""))
        self.is_over = method == "PLAY" and self.status == 200
        head = [f"RTSP/1.0 {self.status} {status_line[2] or ''}"]
        for name, value in fields:
            if name.lower() not in _NOT_PASSED:
                head.append(f"{name}: {self._transport(value) if name.lower() == 'transport' else value}")
        if body:
            head.append(f"Content-Length: {len(body)}")
        return "".join(f"{line}\r\n" for line in [*head, ""]).encode("latin-1") + body

    def _transport(self, value: str) -> str:
        """Keep what is needed of the first transport, and let UDP come from and go to the camera alone."""
        protocol, *parameters = (part.strip() for part in value.partition(",")[0].split(";"))
        if not _TRANSPORT.fullmatch(protocol):
            raise NotRtspError("an unclear transport")
        kept = [part for part in parameters if _TRANSPORT_PARAMETER.fullmatch(part)]
        return ";".join([protocol, f"source={self._camera_ip}", *kept])  # first: FFmpeg reads 4 KB of a line


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    """Return names and values; what is no header field is left out."""
    return [(found[1], found[2]) for line in lines if (found := _FIELD.fullmatch(line))]
