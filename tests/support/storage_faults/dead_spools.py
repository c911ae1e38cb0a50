"""What a dead worker's spool holds, read from a copy: whoever opens it itself mends what the next worker should."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

__all__ = ["accepted_records", "integrity", "waiting"]


def integrity(spool: Path) -> str:
    """Return SQLite's verdict on the file; ``ok`` is what it should be."""
    with _copy(spool) as connection:
        return "; ".join(row[0] for row in connection.execute("PRAGMA integrity_check"))


def accepted_records(spool: Path) -> set[str]:
    """Return the records whose creation waits."""
    with _copy(spool) as connection:
        rows = connection.execute("SELECT visit_id FROM entries WHERE kind = 'CreateRecord'")
        return {str(visit_id) for (visit_id,) in rows}


def waiting(spool: Path) -> dict[str, int]:
    """Return how many entries wait for each sink, dead letters left out."""
    with _copy(spool) as connection:
        query = "SELECT sink, count(*) FROM entries WHERE dead_reason IS NULL GROUP BY sink"
        return dict(connection.execute(query).fetchall())


@contextmanager
def _copy(spool: Path) -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        for file in spool.parent.glob(f"{spool.name}*"):
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder, spool.name))) as connection:
            yield connection
