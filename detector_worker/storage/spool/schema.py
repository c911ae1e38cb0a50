"""The tables of the spool's file, as numbered steps: a file of an earlier version is brought to the newest.

``size_bytes`` of an entry is what it takes on disk, so that their sum can be held against the quota. Triggers keep that
sum and the numbers by kind: counting a hundred thousand entries each second would hold up those who write.
"""

import sqlite3
from typing import Final

from detector_worker.core.exceptions import ServiceError

__all__ = ["VERSION", "bring_up_to_date"]

_STEPS: Final = {
    2: """
CREATE TABLE entries (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, sink TEXT NOT NULL, visit_id TEXT NOT NULL,
  kind TEXT NOT NULL, payload BLOB NOT NULL, picture BLOB, size_bytes INTEGER NOT NULL, created_at REAL NOT NULL,
  dead_reason TEXT);
CREATE INDEX waiting_entries ON entries (sink, seq, size_bytes) WHERE dead_reason IS NULL;
CREATE INDEX dead_letters ON entries (seq) WHERE dead_reason IS NOT NULL;
CREATE TABLE visits (
  record_id TEXT PRIMARY KEY, subscription_id TEXT NOT NULL, payload BLOB NOT NULL, last_seen_at REAL NOT NULL);
CREATE INDEX visits_by_subscription ON visits (subscription_id);
CREATE TABLE sequences (subscription_id TEXT PRIMARY KEY, value INTEGER NOT NULL);
""",
    3: """
ALTER TABLE entries ADD COLUMN expires_at REAL;
ALTER TABLE entries ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entries ADD COLUMN dead_at REAL;
DROP INDEX waiting_entries;
CREATE INDEX waiting_entries ON entries (sink, seq) WHERE dead_reason IS NULL;
CREATE INDEX waiting_publications ON entries (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX pictures ON entries (seq) WHERE kind = 'StoreImage';
CREATE TABLE totals (
  kind TEXT NOT NULL, is_dead INTEGER NOT NULL, entries INTEGER NOT NULL, size_bytes INTEGER NOT NULL,
  PRIMARY KEY (kind, is_dead)) WITHOUT ROWID;
CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
  INSERT INTO totals VALUES (NEW.kind, NEW.dead_reason IS NOT NULL, 1, NEW.size_bytes)
  ON CONFLICT (kind, is_dead) DO UPDATE SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes;
END;
CREATE TRIGGER entry_removed AFTER DELETE ON entries BEGIN
  UPDATE totals SET entries = entries - 1, size_bytes = size_bytes - OLD.size_bytes
  WHERE kind = OLD.kind AND is_dead = (OLD.dead_reason IS NOT NULL);
END;
CREATE TRIGGER entry_judged AFTER UPDATE OF dead_reason ON entries BEGIN
  UPDATE totals SET entries = entries - 1, size_bytes = size_bytes - OLD.size_bytes
  WHERE kind = OLD.kind AND is_dead = (OLD.dead_reason IS NOT NULL);
  INSERT INTO totals VALUES (NEW.kind, NEW.dead_reason IS NOT NULL, 1, NEW.size_bytes)
  ON CONFLICT (kind, is_dead) DO UPDATE SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes;
END;
INSERT INTO totals SELECT kind, dead_reason IS NOT NULL, count(*), sum(size_bytes) FROM entries GROUP BY 1, 2;
CREATE TABLE counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
ALTER TABLE visits ADD COLUMN is_complete INTEGER NOT NULL DEFAULT 0;
UPDATE visits SET is_complete = 1;
CREATE TABLE sessions (session_id TEXT PRIMARY KEY, payload BLOB NOT NULL, changed_at REAL NOT NULL);
CREATE INDEX sessions_by_change ON sessions (changed_at);
CREATE TABLE displays (display_id TEXT PRIMARY KEY, session_id BLOB NOT NULL);
""",
}
VERSION: Final = max(_STEPS)


def bring_up_to_date(connection: sqlite3.Connection, *, where: str) -> None:
    """Make the tables, or add what a file of an earlier version lacks; all or nothing.

    Raises:
        ServiceError: The file is of a version that this worker does not know.
        sqlite3.Error: It cannot be used.
    """
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found not in {0, *_STEPS}:
        raise ServiceError(
            f"The spool is of version {found}, this worker knows {VERSION}",
            where=where,
            mend="Use the worker that wrote it, or another data folder.",
        )
    steps = "".join(statements for version, statements in _STEPS.items() if version > found)
    if steps:
        connection.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;")
