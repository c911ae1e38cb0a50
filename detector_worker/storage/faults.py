"""What the drivers raise, as our own errors: is another try worth it, or will it never work?"""

import re
from typing import Final

import asyncpg
import redis.exceptions

from detector_worker.core.exceptions import DatabaseError, RedisError

__all__ = ["OutdatedTablesError", "TransientDatabaseError", "TransientRedisError", "postgresql_error", "redis_error"]

_MAX_TEXT: Final = 500
# SQLSTATE classes that say something about the statement, its values or a trigger's code. Everything else (08, 28, 40,
# 53, 57, XX ...) is about the server's state, which may change: there, waiting mends what a dead letter would not.
_PERMANENT_CLASSES: Final = frozenset(
    {"0A", "20", "21", "22", "23", "27", "2F", "38", "39", "3F", "42", "44", "54", "P0"}
)
_NOT_WRITABLE: Final = "55000"  # of a view that takes no rows; the rest of class 55 is about locks
_LOST_CLASSES: Final = frozenset({"08", "57"})
_DEMOTED: Final = "25006"
_CANCELLED: Final = "57014"
_PERMANENT_REDIS: Final = (redis.exceptions.ResponseError, redis.exceptions.DataError, redis.exceptions.InvalidResponse)
_TRANSIENT_REDIS: Final = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.AuthenticationWrongNumberOfArgsError,
    redis.exceptions.ExecAbortError,
)
# At the beginning, or, in a script, after Redis 6 has said where in it.
_TRANSIENT_REDIS_WORDS: Final = re.compile(
    r"(?:^|: -)(?:MISCONF|NOREPLICAS|BUSY|LOADING|MASTERDOWN|READONLY|OOM|NOAUTH|WRONGPASS)\b"
)


class TransientDatabaseError(DatabaseError):
    """The server is away, busy or full: the same call may succeed later."""

    def __init__(self, what: str, *, where: str, mend: str, connection_lost: bool = False) -> None:
        super().__init__(what, where=where, mend=mend)
        self.connection_lost = connection_lost


class OutdatedTablesError(TransientDatabaseError):
    """A table was altered since it was looked up: to be tried again at once, with a fresh look."""


class TransientRedisError(RedisError):
    """The server is away, busy or full: the same call may succeed later."""


def postgresql_error(exc: Exception, *, where: str) -> DatabaseError:
    """Translate an exception of asyncpg, or of the network below it."""
    if isinstance(exc, DatabaseError):
        return exc
    sqlstate = getattr(exc, "sqlstate", None)
    what = f"PostgreSQL: {_text(exc)}" + (f" (SQLSTATE {sqlstate})" if sqlstate else "")
    if sqlstate is None:  # the network, a timeout, or the driver's own state: that connection is of no more use
        mend = "Check that the server runs and can be reached."
        return TransientDatabaseError(what, where=where, mend=mend, connection_lost=True)
    if isinstance(exc, asyncpg.InvalidCachedStatementError):  # 0A000, but it goes with the connection
        return TransientDatabaseError(what, where=where, mend="It is tried again.", connection_lost=True)
    if sqlstate[:2] in _PERMANENT_CLASSES or sqlstate == _NOT_WRITABLE:
        return DatabaseError(what, where=where, mend="Check the archive's fields against the table's columns.")
    lost = sqlstate == _DEMOTED or (sqlstate[:2] in _LOST_CLASSES and sqlstate != _CANCELLED)
    mend = "Check the server's state, its disk and the worker's credentials."
    return TransientDatabaseError(what, where=where, mend=mend, connection_lost=lost)


def redis_error(exc: Exception, *, where: str) -> RedisError:
    """Translate an exception of redis-py, or of the network below it."""
    if isinstance(exc, RedisError):
        return exc
    what = f"Redis: {_text(exc)}"
    permanent = isinstance(exc, _PERMANENT_REDIS) and not isinstance(exc, _TRANSIENT_REDIS)
    if permanent and not _TRANSIENT_REDIS_WORDS.search(str(exc)):
        return RedisError(what, where=where, mend="Check the key, the channel and what this user may do.")
    return TransientRedisError(what, where=where, mend="Check that the server runs, its memory and the credentials.")


def _text(exc: Exception) -> str:
    """One bounded line, with the server's detail where it gives one."""
    said = "no answer in time" if isinstance(exc, TimeoutError) else str(exc) or type(exc).__name__
    return " ".join(f"{said} {getattr(exc, 'detail', None) or ''}".split())[:_MAX_TEXT]
