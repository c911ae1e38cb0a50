import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from support.redis_tls import Authority

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.postgresql.tls import TlsConfig

HOST = "db.example"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Certificates and keys: of an authority, two of its holders, a key with a password, and no such file."""
    authority = Authority(tmp_path)
    (certificate, key), (_, other_key) = authority.issue("one"), authority.issue("other")
    encrypted = tmp_path / "encrypted.key"
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    form, password = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    encrypted.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, password))
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return {
        "ca": authority.certificate,
        "certificate": certificate,
        "key": key,
        "other_key": other_key,
        "encrypted": encrypted,
        "both": both,
        "missing": tmp_path / "missing.pem",
    }


@pytest.mark.parametrize(
    ("settings", "key", "says"),
    [
        ({"sslmode": "verify-full", "sslrootcert": "missing"}, "sslrootcert", "No such file"),
        ({"sslmode": "require", "sslcert": "missing"}, "sslcert", "No such file"),
        ({"sslmode": "require", "sslcert": "certificate", "sslkey": "missing"}, "sslkey", "No such file"),
        ({"sslmode": "verify-ca", "sslrootcert": "key"}, "sslrootcert", "holds no certificate"),
        ({"sslmode": "verify-ca"}, "sslrootcert", "needs it"),
        ({"sslmode": "require", "sslrootcert": "ca"}, "sslrootcert", "verifies nothing"),
        ({"sslmode": "prefer", "sslrootcert": "ca"}, "sslrootcert", "makes no use of it"),
        ({"sslmode": "disable", "sslcert": "both"}, "sslcert", "makes no use of it"),
        ({"sslmode": "require", "sslkey": "key"}, "sslcert", "needs its certificate"),
        ({"sslmode": "require", "sslcert": "certificate"}, "sslcert", "does not go with"),
        ({"sslmode": "require", "sslcert": "certificate", "sslkey": "other_key"}, "sslcert", "does not go with"),
        ({"sslmode": "require", "sslcert": "certificate", "sslkey": "encrypted"}, "sslcert", "does not go with"),
    ],
)
def test_what_cannot_be_used_is_told_by_its_key_when_the_worker_is_made(
    files: dict[str, Path], settings: dict[str, str], key: str, says: str
) -> None:
    tls = TlsConfig(**{name: files.get(value, value) for name, value in settings.items()})  # type: ignore[arg-type] # as parametrized

    with pytest.raises(ConfigurationError, match=says) as caught:
        DatabaseManager(DatabaseConfig(HOST, tls=tls), auto_migrate=True)

    assert caught.value.where == f"database.{key}"


def test_who_is_verified_depends_on_the_mode(files: dict[str, Path]) -> None:
    def asked(tls: TlsConfig) -> tuple[ssl.VerifyMode, bool]:
        context = tls.for_host(HOST)
        assert isinstance(context, ssl.SSLContext)
        return context.verify_mode, context.check_hostname

    assert asked(TlsConfig("require")) == (ssl.CERT_NONE, False)
    assert asked(TlsConfig("verify-ca", files["ca"])) == (ssl.CERT_REQUIRED, False)
    assert asked(TlsConfig("verify-full", files["ca"])) == (ssl.CERT_REQUIRED, True)
    assert asked(TlsConfig("verify-full")) == (ssl.CERT_REQUIRED, True)
    assert asked(TlsConfig("require", None, files["both"])) == (ssl.CERT_NONE, False)


def test_without_a_context_the_driver_is_told_what_to_do() -> None:
    assert TlsConfig().for_host(HOST) == "prefer"
    assert TlsConfig("disable").for_host(HOST) is False
    assert TlsConfig("verify-full").for_host("/run/postgresql") is False
