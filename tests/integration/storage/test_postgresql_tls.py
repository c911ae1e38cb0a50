"""Who PostgreSQL is, who we are, and that nobody in between reads along."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest
from support.postgresql_front import postgresql_front
from support.redis_tls import Authority
from support.storage_faults.proxy import FaultyProxy

from detector_worker.core.exceptions import DatabaseError
from detector_worker.core.settings import SslMode
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.faults import TransientDatabaseError
from detector_worker.storage.postgresql.table_survey import survey_tables
from detector_worker.storage.postgresql.tls import TlsConfig

CANARY = "canary-password"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "stranger")


@pytest.fixture
def socket(servers: EmbeddedServers) -> Path:
    return servers.postgresql_socket_dir / ".s.PGSQL.5432"


@asynccontextmanager
async def connected(config: DatabaseConfig, port: int, tls: TlsConfig) -> AsyncIterator[DatabaseManager]:
    over_tcp = replace(config, host="localhost", port=port, password=CANARY, tls=tls)
    async with DatabaseManager(over_tcp, auto_migrate=False) as manager:
        yield manager


async def refusal(config: DatabaseConfig, port: int, tls: TlsConfig) -> str:
    over_tcp = replace(config, host="localhost", port=port, password=CANARY, tls=tls)
    manager = DatabaseManager(over_tcp, auto_migrate=False)
    with pytest.raises(TransientDatabaseError) as caught:  # an entry must not be given up for it
        await manager.write([])
    assert CANARY not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    assert f"localhost:{port}" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("sslmode", ["prefer", "require", "verify-ca", "verify-full"])
async def test_a_server_with_the_right_certificate_is_believed(
    socket: Path, database_config: DatabaseConfig, authority: Authority, sslmode: SslMode
) -> None:
    tls = TlsConfig(sslmode, authority.certificate if sslmode.startswith("verify") else None)
    async with (
        postgresql_front(socket, authority.issue("localhost")) as port,
        connected(database_config, port, tls) as database,
    ):
        await database.ensure_tables({"cars": {"id": "int", "name": "text"}}, add=True)
        await database.create_record("cars", {"id": 1, "name": "x" * (1 << 20)})

        assert len(str(await database.get_record("cars", 1, "id"))) > 1 << 20


@pytest.mark.parametrize("sslmode", ["verify-ca", "verify-full"])
async def test_a_stranger_s_certificate_is_not_believed_and_no_secret_is_told(
    socket: Path, database_config: DatabaseConfig, authority: Authority, stranger: Authority, sslmode: SslMode
) -> None:
    async with postgresql_front(socket, stranger.issue("localhost")) as port:
        told = await refusal(database_config, port, TlsConfig(sslmode, authority.certificate))

    assert "certificate verify failed" in told


async def test_the_authorities_of_the_system_do_not_know_ours(
    socket: Path, database_config: DatabaseConfig, authority: Authority
) -> None:
    async with postgresql_front(socket, authority.issue("localhost")) as port:
        assert "certificate verify failed" in await refusal(database_config, port, TlsConfig("verify-full"))


async def test_another_host_s_certificate_is_believed_only_where_names_do_not_count(
    socket: Path, database_config: DatabaseConfig, authority: Authority
) -> None:
    async with postgresql_front(socket, authority.issue("elsewhere")) as port:
        told = await refusal(database_config, port, TlsConfig("verify-full", authority.certificate))
        async with connected(database_config, port, TlsConfig("verify-ca", authority.certificate)):
            pass

    assert "Hostname mismatch" in told


async def test_only_prefer_and_disable_do_without_tls(socket: Path, database_config: DatabaseConfig) -> None:
    async with FaultyProxy(socket) as plain:
        assert "rejected SSL" in await refusal(database_config, plain.port, TlsConfig("require"))
        for sslmode in ("prefer", "disable"):
            async with connected(database_config, plain.port, TlsConfig(sslmode)):
                pass


async def test_a_client_shows_its_own_certificate(
    socket: Path, database_config: DatabaseConfig, authority: Authority, stranger: Authority
) -> None:
    certificate, key = authority.issue("worker")
    async with postgresql_front(socket, authority.issue("localhost"), clients=authority.certificate) as port:
        async with connected(database_config, port, TlsConfig("require", None, certificate, key)):
            pass
        await refusal(database_config, port, TlsConfig("require", None, *stranger.issue("worker")))


async def test_a_replaced_file_is_read_without_a_restart(
    socket: Path, database_config: DatabaseConfig, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    believed = tmp_path / "believed.pem"
    believed.write_bytes(stranger.certificate.read_bytes())
    async with postgresql_front(socket, authority.issue("localhost")) as port:
        tls = TlsConfig("verify-full", believed)
        database = DatabaseManager(replace(database_config, host="localhost", port=port, tls=tls), auto_migrate=False)
        with pytest.raises(TransientDatabaseError, match="certificate verify failed"):
            await database.write([])
        believed.unlink()
        with pytest.raises(TransientDatabaseError, match=r"database\.sslrootcert"):
            await database.write([])
        believed.write_bytes(authority.certificate.read_bytes())

        await database.write([])

        await database.disconnect()


async def test_a_unix_socket_needs_no_tls(database_config: DatabaseConfig) -> None:
    async with DatabaseManager(replace(database_config, tls=TlsConfig("verify-full")), auto_migrate=False):
        pass


async def test_a_survey_tells_that_a_certificate_is_not_believed(
    socket: Path, database_config: DatabaseConfig, authority: Authority, stranger: Authority
) -> None:
    async with postgresql_front(socket, stranger.issue("localhost")) as port:
        asked = urlencode({"sslmode": "verify-full", "sslrootcert": authority.certificate})
        url = f"postgresql://{database_config.user}:{CANARY}@localhost:{port}/{database_config.database}?{asked}"
        with pytest.raises(DatabaseError, match="certificate verify failed") as caught:
            await survey_tables(url, ["cars"])

    assert CANARY not in str(caught.value)
