"""Where log lines go and what they look like: the console and ``detector_worker.log``, text or JSON.

Modules log through the standard library (``logging.getLogger(__name__)``); structlog renders the JSON.
"""

import logging
import logging.handlers
import re
import sys
from pathlib import Path
from typing import Final

import structlog

__all__ = ["setup_logging"]

_FILE_NAME: Final = "detector_worker.log"
_MAX_FILE_BYTES: Final = 20 * 1024 * 1024
_KEPT_FILES: Final = 5
_TEXT_FORMAT: Final = "%(asctime)s - %(name)s - %(levelname)s - [%(filename)s:%(lineno)d] - %(message)s"
# Whoever can put a line break or an escape sequence into a name could forge lines or rewrite a terminal.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_INDENTED_BREAK: Final = "\n    "
# At DEBUG these write out every header and message, tokens and cameras' passwords included.
_TELLTALES: Final = ("uvicorn.error", "websockets")
# uvicorn says this of each WebSocket that was refused with an HTTP status, though nothing is wrong.
_NOISE: Final = "ASGI callable returned without completing handshake."


def setup_logging(level: str | int = "INFO", *, folder: Path | None = None, json_lines: bool = False) -> logging.Logger:
    """Set the root logger up; what was set up before is replaced.

    Args:
        level: Below this nothing is logged.
        folder: Where ``detector_worker.log`` lies, rotated at 20 MiB, five old ones kept; None: console only.
        json_lines: One JSON object a line instead of text.

    Returns:
        The root logger.

    Raises:
        OSError: The file cannot be opened.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if folder is not None:
        (folder / _FILE_NAME).touch(mode=0o600)
        handlers.append(
            logging.handlers.RotatingFileHandler(
                folder / _FILE_NAME, maxBytes=_MAX_FILE_BYTES, backupCount=_KEPT_FILES, encoding="utf-8"
            )
        )
    formatter = _json_formatter() if json_lines else _OneLineFormatter(_TEXT_FORMAT)
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(_is_worth_a_line)
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    for name in _TELLTALES:
        logging.getLogger(name).setLevel(max(root.level, logging.INFO))
    logging.captureWarnings(capture=True)
    return root


class _OneLineFormatter(logging.Formatter):
    """Control characters in a message become visible; a traceback's lines are indented, so none looks like an entry."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        return _CONTROL.sub(lambda found: repr(found.group())[1:-1], super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - as above
        text = super().formatException(ei)  # type: ignore[arg-type] # handed through
        return "    " + _INDENTED_BREAK.join(_CONTROL.sub("?", line) for line in text.splitlines())


def _json_formatter() -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.CallsiteParameterAdder(
                [structlog.processors.CallsiteParameter.FILENAME, structlog.processors.CallsiteParameter.LINENO]
            ),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ],
    )


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    return not (record.name == "uvicorn.error" and record.msg == _NOISE)
