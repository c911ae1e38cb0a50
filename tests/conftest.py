"""Fixtures of every test."""

from collections.abc import Iterator

import pytest
from support.folders import open_folder

from detector_worker.storage.embedded_servers import EmbeddedServers


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """A PostgreSQL and a Valkey of our own: no port, nothing installed, gone afterwards."""
    with open_folder() as folder, EmbeddedServers(folder / "data") as running:
        yield running
