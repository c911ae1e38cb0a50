"""Which refusals of Redis may pass: as its versions word them, and as its scripts quote them."""

import pytest
from hiredis import Reader
from redis._parsers.base import BaseParser

from detector_worker.storage.faults import TransientDatabaseError, TransientRedisError, postgresql_error, redis_error

IN_SCRIPT = "ERR Error running script (call to f_c0ffee): @user_script:5: @user_script: 5: "


def told(reply: str) -> Exception:
    """Return what the driver makes of an error that a server sends."""
    reader = Reader(replyError=BaseParser.parse_error)
    reader.feed(f"-{reply}\r\n".encode())
    error = reader.gets()
    assert isinstance(error, Exception)
    return error


@pytest.mark.parametrize(
    "reply",
    [
        "LOADING Redis is loading the dataset in memory",
        "MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
        "READONLY You can't write against a read only replica. script: c0ffee, on @user_script:5.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "NOREPLICAS Not enough good replicas to write.",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "ERR max number of clients reached",
        IN_SCRIPT + "-READONLY You can't write against a read only replica.",
        IN_SCRIPT + "-OOM command not allowed when used memory > 'maxmemory'.",
        IN_SCRIPT + "-MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist.",
    ],
)
def test_what_says_something_about_the_server_may_pass(reply: str) -> None:
    assert isinstance(redis_error(told(reply), where="here"), TransientRedisError)


@pytest.mark.parametrize(
    "reply",
    [
        "NOPERM this user has no permissions to access one of the keys used as arguments",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR invalid expire time in 'set' command",
        "ERR unknown command 'EVAL'",
        IN_SCRIPT + "The user executing the script can't run this command or subcommand",
        "ERR value is -OOM",
    ],
)
def test_what_says_something_about_the_command_never_will(reply: str) -> None:
    assert not isinstance(redis_error(told(reply), where="here"), TransientRedisError)


@pytest.mark.parametrize(
    ("error", "text"), [(TimeoutError(), "no answer in time"), (ConnectionResetError(), "ConnectionResetError")]
)
def test_an_error_without_words_of_its_own_is_told_by_what_it_is(error: Exception, text: str) -> None:
    of_redis, of_postgresql = redis_error(error, where="r"), postgresql_error(error, where="p")

    assert isinstance(of_redis, TransientRedisError)
    assert isinstance(of_postgresql, TransientDatabaseError)
    assert of_redis.what == f"Redis: {text}"
    assert of_postgresql.what == f"PostgreSQL: {text}"
