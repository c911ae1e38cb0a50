"""Addresses and TLS files that cannot work end the start, by the name of their key."""

from pathlib import Path

import pytest
from support.redis_tls import Authority

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.storage.redis_client import RedisClient, RedisTls

URL = "rediss://user:canary@localhost"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def failure(tls: RedisTls, url: str = URL) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        RedisClient(url, tls=tls)
    assert "canary" not in str(caught.value)
    return caught.value


def test_files_that_belong_together_are_taken(authority: Authority) -> None:
    certificate, key = authority.issue("worker")
    both = certificate.with_name("both.pem")
    both.write_bytes(certificate.read_bytes() + key.read_bytes())

    RedisClient(URL, tls=RedisTls(authority.certificate, certificate, key))
    RedisClient(URL, tls=RedisTls(cert_file=both, verify_names=False))


@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
def test_a_missing_file_is_told_by_its_key(authority: Authority, key: str) -> None:
    files = (authority.certificate, *authority.issue("worker"))
    files[["ca_file", "cert_file", "key_file"].index(key)].unlink()

    error = failure(RedisTls(*files))

    assert (error.where, "No such file" in error.what) == (f"redis.tls_{key}", True)


def test_a_file_that_holds_something_else_is_told(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("worker")
    (nothing := tmp_path / "nothing.pem").write_text("nothing")

    assert failure(RedisTls(ca_file=nothing)).where == "redis.tls_ca_file"
    assert failure(RedisTls(cert_file=nothing)).where == "redis.tls_cert_file"
    assert failure(RedisTls(cert_file=certificate)).where == "redis.tls_cert_file"  # where is its key?
    assert failure(RedisTls(cert_file=authority.certificate, key_file=key)).where == "redis.tls_cert_file"
    assert failure(RedisTls(key_file=key)).where == "redis.tls_cert_file"


@pytest.mark.parametrize("url", ["redis://user:canary@localhost", "unix:///run/redis?password=canary"])
def test_files_for_an_address_that_is_not_encrypted_are_a_mistake(authority: Authority, url: str) -> None:
    assert failure(RedisTls(authority.certificate), url).where == "redis.tls_ca_file"


@pytest.mark.parametrize("query", ["secret=canary", "db=canary", "socket_timeout=canary"])
def test_what_the_driver_does_not_know_is_refused_at_the_start(query: str) -> None:
    assert failure(RedisTls(), f"{URL}/0?{query}").where == "redis.url"
