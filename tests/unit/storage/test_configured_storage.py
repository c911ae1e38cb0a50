"""What a configuration says reaches the servers' clients."""

from pathlib import Path

import pytest
from support.redis_tls import Authority

from detector_worker.core.config import Configuration
from detector_worker.core.exceptions import ConfigurationError
from detector_worker.storage.configured_storage import storage_for


@pytest.mark.parametrize("key", ["tls_ca_file", "tls_cert_file", "tls_key_file"])
async def test_a_missing_tls_file_ends_the_start_by_its_key(tmp_path: Path, key: str) -> None:
    certificate, key_file = Authority(tmp_path).issue("worker")
    files = {"tls_ca_file": certificate, "tls_cert_file": certificate, "tls_key_file": key_file}
    configuration = Configuration.model_validate(
        {
            "server": {"data_dir": tmp_path / "data"},
            "database": {"host": "localhost"},
            "redis": {"url": "rediss://user:canary@localhost", **files, key: tmp_path / "missing.pem"},
        }
    )
    storage = storage_for(configuration, notify_server=lambda *_: None, notify_sink=lambda _: None)

    with pytest.raises(ConfigurationError, match=rf"redis\.{key}\]") as caught:
        await storage.start()

    assert "canary" not in str(caught.value)
