"""What can happen to a server: how it is caused, and how it is undone."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from support.storage_faults.private_servers import PrivatePostgresql, PrivateRedis
from support.storage_faults.proxy import FaultyProxy, Loss

__all__ = ["FROZEN", "HARMS", "KILLED", "Harm", "Patient"]

_DEEDS: Final = {PrivatePostgresql: (b"COMMIT",), PrivateRedis: (b"EVAL", b"$3\r\nSET\r\n")}
"""What a request holds that has an effect."""


@dataclass(frozen=True)
class Patient:
    """A server that comes to harm."""

    server: PrivatePostgresql | PrivateRedis
    proxy: FaultyProxy
    """Between it and the sink, where the harm is done there."""

    def lose(self, loss: Loss) -> None:
        """Lose it from the moment on when all is done and nobody knows: the worst there is."""
        self.proxy.begin(loss, after=_DEEDS[type(self.server)])


@dataclass(frozen=True)
class Harm:
    """One kind of harm."""

    name: str
    begin: Callable[[Patient], Awaitable[None]]
    end: Callable[[Patient], Awaitable[None]]
    needs_proxy: bool = False
    needs_password: bool = False


def _losing(name: str, loss: Loss) -> Harm:
    async def begin(patient: Patient) -> None:
        patient.lose(loss)

    async def end(patient: Patient) -> None:
        patient.proxy.end()

    return Harm(name, begin, end, needs_proxy=True)


async def _thaw(patient: Patient) -> None:
    patient.server.thaw()


KILLED: Final = Harm("killed", lambda one: one.server.kill(), lambda one: one.server.start())
FROZEN: Final = Harm("frozen", lambda one: one.server.freeze(), _thaw)
HARMS: Final = (
    KILLED,
    FROZEN,
    _losing("its answers lost", Loss.ANSWERS),
    _losing("nothing goes either way", Loss.EVERYTHING),
    _losing("connections cut in the act", Loss.CONNECTIONS),
    Harm("read-only", lambda one: one.server.demote(), lambda one: one.server.promote()),
    Harm(
        "another password, and back",
        lambda one: one.server.change_password(),
        lambda one: one.server.change_password(back=True),
        needs_password=True,
    ),
)
