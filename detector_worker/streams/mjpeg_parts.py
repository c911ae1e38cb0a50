"""The parts of a multipart answer as cameras write it, which is often not as RFC 2046 wants it. Without I/O."""

from enum import Enum, auto
from typing import Final

__all__ = ["MultipartError", "MultipartParser"]

_MAX_BOUNDARY_BYTES: Final = 200
_MAX_HEADER_BYTES: Final = 16_384
_MAX_EMPTY_PARTS: Final = 100
_MAX_LENGTH_DIGITS: Final = 12
_DASH: Final = ord("-")
_NEWLINE: Final = ord("\n")
_KEPT_BYTES: Final = 3  # before what is searched: two dashes, or a newline and one


class MultipartError(ValueError):
    """What arrives breaks a bound."""


class _State(Enum):
    BETWEEN = auto()
    HEADER = auto()
    BODY = auto()


class MultipartParser:
    """Takes bytes as they come and returns the bodies of parts as soon as they are complete.

    Forgiven: dashes before the boundary too few or too many, in the answer's header as well; bare newlines; a wrong
    or absent ``Content-Length``; a boundary right behind a picture; text before the first boundary; an answer whose
    header names no boundary (its first line is the boundary, then).
    """

    def __init__(self, boundary: str | None, *, max_part_bytes: int) -> None:
        """Begin before the first part; ``boundary`` is the parameter of the answer's Content-Type, None: absent."""
        self._core = _without_dashes((boundary or "").encode("utf-8", "replace"))
        self._max_part_bytes = max_part_bytes
        self._state = _State.BETWEEN
        self._buffer = bytearray()
        self._searched = 0  # no boundary's text begins before this place
        self._header_bytes = 0
        self._empty_parts = 0  # in a row
        self._body_bytes = 0  # as announced; 0: up to the next boundary

    def feed(self, data: bytes) -> list[bytearray]:
        """Return the bodies that these bytes complete, oldest first; none is empty.

        Raises:
            MultipartError: A header or a body is too long, or there is nothing but empty parts.
        """
        self._buffer += data
        parts: list[bytearray] = []
        while self._advance(parts):
            pass
        return parts

    def _advance(self, parts: list[bytearray]) -> bool:
        """Take one step; False: more bytes are needed."""
        match self._state:
            case _State.BETWEEN:
                return self._skip_boundary() if self._core else self._learn_boundary()
            case _State.HEADER:
                return self._read_header_line()
            case _State.BODY:
                body = self._counted_body() if self._body_bytes else self._delimited_body()
                if body is None:
                    return False
                if body:
                    parts.append(body)
                self._empty_parts = 0 if body else self._empty_parts + 1
                if self._empty_parts > _MAX_EMPTY_PARTS:
                    raise MultipartError(f"over {_MAX_EMPTY_PARTS} parts in a row are empty")
                self._enter(_State.BETWEEN)
                return True

    def _enter(self, state: _State) -> None:
        self._state, self._searched = state, 0
        if state is _State.HEADER:
            self._header_bytes = self._body_bytes = 0

    def _learn_boundary(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        self._core = _without_dashes(line)
        if self._core:
            self._enter(_State.HEADER)
        return True

    def _skip_boundary(self) -> bool:
        """Drop everything up to the end of the boundary's line."""
        found = self._find_boundary()
        if found is None:
            dropped = max(0, self._searched - _KEPT_BYTES)
            del self._buffer[:dropped]
            self._searched -= dropped
            return False
        line_end = self._buffer.find(b"\n", found[1])
        if line_end < 0:
            _bound(len(self._buffer) - found[1], _MAX_HEADER_BYTES, "header")
            return False
        del self._buffer[: line_end + 1]
        self._enter(_State.HEADER)
        return True

    def _read_header_line(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        self._header_bytes += len(line)
        _bound(self._header_bytes, _MAX_HEADER_BYTES, "header")
        if not line.strip():
            self._enter(_State.BODY)
            return True
        name, _, value = line.partition(b":")
        value = value.strip()
        if name.strip().lower() == b"content-length" and value.isdigit():
            self._body_bytes = int(value[:_MAX_LENGTH_DIGITS])
            _bound(self._body_bytes, self._max_part_bytes, "body")
        return True

    def _take_line(self) -> bytearray | None:
        """Return the next line with its newline; None: it is not complete."""
        end = self._buffer.find(b"\n", 0, _MAX_HEADER_BYTES) + 1
        if not end:
            _bound(len(self._buffer), _MAX_HEADER_BYTES - 1, "header")
            return None
        line = self._buffer[:end]
        del self._buffer[:end]
        return line

    def _counted_body(self) -> bytearray | None:
        if len(self._buffer) < self._body_bytes:
            return None
        return self._cut_off(self._body_bytes, self._body_bytes)

    def _delimited_body(self) -> bytearray | None:
        found = self._find_boundary()
        if found is None:
            _bound(len(self._buffer), self._max_part_bytes, "body")
            return None
        end = found[0]
        if end and self._buffer[end - 1] == _NEWLINE:
            end -= 2 if self._buffer.endswith(b"\r\n", 0, end) else 1
        return self._cut_off(end, found[0])

    def _cut_off(self, body_end: int, rest_start: int) -> bytearray:
        """Return the buffer's beginning: the buffer itself, so that only the short rest is copied."""
        body, self._buffer = self._buffer, self._buffer[rest_start:]
        del body[body_end:]
        return body

    def _find_boundary(self) -> tuple[int, int] | None:
        """Return where the next boundary's dashes begin and where its text ends; None: it is not there yet."""
        while (at := self._buffer.find(self._core, self._searched)) >= 0:
            start = at
            while start and self._buffer[start - 1] == _DASH:
                start -= 1
            if start == 0 or at - start >= 2 or self._buffer[start - 1] == _NEWLINE:
                return start, at + len(self._core)
            self._searched = at + 1
        self._searched = max(self._searched, len(self._buffer) - len(self._core) + 1)
        return None


def _without_dashes(boundary: bytes | bytearray) -> bytes:
    core = bytes(boundary).strip(b" \t\r\n\"'").strip(b"-")
    _bound(len(core), _MAX_BOUNDARY_BYTES, "boundary")
    return core


def _bound(size_bytes: int, most_bytes: int, what: str) -> None:
    if size_bytes > most_bytes:
        raise MultipartError(f"a part's {what} has over {most_bytes} bytes")
