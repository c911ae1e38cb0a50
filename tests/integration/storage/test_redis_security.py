"""Who Redis is, who we are, and what we may do there."""

from pathlib import Path

import pytest
from support.redis_fronts import front
from support.redis_servers import hearing
from support.redis_tls import Authority
from support.spooling import image, publication

from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import RedisError
from detector_worker.core.outbox import SpoolEntry
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.faults import TransientRedisError
from detector_worker.storage.redis.survey import survey_server
from detector_worker.storage.redis_client import RedisClient, RedisImageStorage, RedisTls
from detector_worker.storage.sinks import RedisSink

CANARY = "canary-password"
WORKER = ["+client|setname", "+set", "+eval", "+exists", "+time", "+publish", "+info", "+config|get"]
READERS = ["+ping", "+get", "+del", "+scan", "+subscribe"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_server_is_believed_by_its_authority_and_name(servers: EmbeddedServers, authority: Authority) -> None:
    async with (
        front(servers.redis_socket, tls=authority.server_context("localhost")) as peer,
        RedisClient(f"rediss://localhost:{peer.port}", tls=RedisTls(authority.certificate)) as client,
    ):
        await client.set("by tls", bytes(1 << 20), expire_s=60)

        assert await client.get("by tls") == bytes(1 << 20)


@pytest.mark.parametrize("verify_names", [True, False])
async def test_another_host_s_certificate_is_believed_only_where_names_do_not_count(
    servers: EmbeddedServers, authority: Authority, *, verify_names: bool
) -> None:
    tls = RedisTls(authority.certificate, verify_names=verify_names)
    async with front(servers.redis_socket, tls=authority.server_context("elsewhere")) as peer:
        client = RedisClient(f"rediss://localhost:{peer.port}", tls=tls)
        if verify_names:
            with pytest.raises(TransientRedisError, match="Hostname mismatch"):
                await client.connect()
        else:
            await client.connect()
        await client.disconnect()


@pytest.mark.parametrize("verify_names", [True, False])
async def test_a_stranger_s_certificate_is_never_believed_and_no_secret_is_told(
    servers: EmbeddedServers, authority: Authority, tmp_path: Path, *, verify_names: bool
) -> None:
    stranger = Authority(tmp_path, "stranger")
    async with front(servers.redis_socket, tls=stranger.server_context("localhost")) as peer:
        url = f"rediss://dw:{CANARY}@localhost:{peer.port}"
        with pytest.raises(TransientRedisError, match="certificate verify failed") as caught:
            await RedisClient(url, tls=RedisTls(authority.certificate, verify_names=verify_names)).connect()

    assert CANARY not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    assert f"localhost:{peer.port}" in str(caught.value)


async def test_a_client_shows_its_own_certificate(servers: EmbeddedServers, authority: Authority) -> None:
    context = authority.server_context("localhost", wants_clients=True)
    async with front(servers.redis_socket, tls=context) as peer:
        url = f"rediss://localhost:{peer.port}"
        async with RedisClient(url, tls=RedisTls(authority.certificate, *authority.issue("worker"))) as client:
            await client.connect()
        with pytest.raises(TransientRedisError):
            await RedisClient(url, tls=RedisTls(authority.certificate)).connect()


async def everything(client: RedisClient) -> None:
    """Do all that the worker and those who read from it do."""
    sink, storage = RedisSink(client, clock=SystemClock()), RedisImageStorage(client)
    await client.connect()
    assert (await client.pipeline([("CONFIG", "GET", "save")]))[0] == [b"save", b""]
    await survey_server(client)
    async with hearing(client, "gate") as subscriber:
        assert not await sink.deliver([image("r", key="k"), publication("r", channel="gate", message="m")])
        assert await anext(subscriber.listen()) == ("gate", b"m")
    assert await storage.retrieve_image("k") == b"\xff\xd8"
    assert await storage.cleanup_expired("k") == 1
    assert await storage.delete_image("k")
    assert sink.warnings == ()


def user_client(private: EmbeddedServers, password: str = CANARY) -> RedisClient:
    return RedisClient(f"unix://dw:{password}@{private.redis_socket}")


async def allow(admin: RedisClient, *rules: str) -> None:
    await admin.pipeline([("ACL", "SETUSER", "dw", "reset", "resetchannels", "on", f">{CANARY}", *rules)])


async def test_a_user_needs_the_rights_that_are_told_and_no_other(private: EmbeddedServers, admin: RedisClient) -> None:
    rights = (*WORKER, *READERS)
    for missing in ("none", *rights):
        await admin.pipeline([("FLUSHALL",)])
        await allow(admin, "~*", "&*", *(right for right in rights if right != missing))
        client = user_client(private)
        if missing == "none":
            await everything(client)
        else:
            with pytest.raises((RedisError, AssertionError)):
                await everything(client)
        await client.disconnect()


async def test_the_worker_alone_needs_less(private: EmbeddedServers, admin: RedisClient) -> None:
    await allow(admin, "~*", "&*", *WORKER)
    sink = RedisSink(client := user_client(private), clock=SystemClock())

    assert not await sink.deliver([image("r", key="k"), publication("r", channel="gate", message="m")])

    assert sink.warnings == ()
    await client.disconnect()


@pytest.mark.parametrize(
    ("rules", "entry"),
    [
        (["~inference:*", "&*", *WORKER], image("r", key="elsewhere")),
        (["~*", "&*", *WORKER, "-set"], image("r", key="k")),
        (["~*", "&yard", *WORKER], publication("r", channel="gate", message="m", max_age_s=3600)),
        (["~*", "&*", *WORKER, "-publish"], publication("r", channel="gate", message="m", max_age_s=3600)),
        (["~*", "&*", *WORKER, "-eval"], publication("r", channel="gate", message="m", max_age_s=3600)),
    ],
)
async def test_what_a_user_may_not_do_is_given_up(
    private: EmbeddedServers, admin: RedisClient, rules: list[str], entry: SpoolEntry
) -> None:
    await allow(admin, *rules)
    client = user_client(private)

    with pytest.raises(RedisError, match=r"(?i)permission|user executing the script can't|ACL failure") as caught:
        await RedisSink(client, clock=SystemClock()).deliver([entry])

    assert not isinstance(caught.value, TransientRedisError)
    await client.disconnect()


async def test_who_may_not_even_connect_waits_for_the_right(private: EmbeddedServers, admin: RedisClient) -> None:
    await allow(admin, "~*", "&*", *WORKER[1:])
    client = user_client(private)
    with pytest.raises(TransientRedisError):  # else every entry would be given up
        await client.set("k", "x")

    await allow(admin, "~*", "&*", *WORKER)
    await client.set("k", "x")

    with pytest.raises(TransientRedisError) as caught:
        await user_client(private, "another").set("k", "x")
    assert "another" not in str(caught.value)
    await client.disconnect()
