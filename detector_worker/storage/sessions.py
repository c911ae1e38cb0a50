"""The worker's sessions: on disk, so that they outlive it, with the caches in front of them.

A session is what a backend calls one occasion at a display, or, where it names none, one visit. It is opened by
`setSessionId` or by a visit's first record, and ends ``ttl_s`` after its last use; one that a display is in never does.
"""

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Final

import orjson
import uuid_utils

from detector_worker.core.clock import Clock
from detector_worker.core.entities import DetectionResult, FieldValue, PipelineResult, SessionId
from detector_worker.core.exceptions import MessageProcessingError, ServiceError
from detector_worker.core.outbox import PatchRecord, SavedVisit, SessionEntry, Sink, SpoolEntry
from detector_worker.core.singleton_managers import SessionStateManager
from detector_worker.storage.session_cache import SessionCacheManager
from detector_worker.storage.session_table import (
    Session,
    SessionRecord,
    end_display,
    find_outlived,
    load,
    load_displays,
    set_display,
    store,
)
from detector_worker.storage.spool.spool import Spool

__all__ = ["Sessions"]

_log: Final = logging.getLogger(__name__)
_MAX_DISPLAYS: Final = 10_000
_MAX_KEPT: Final = 100_000
_MAX_DATA_BYTES: Final = 64 << 10
_PRUNE_EVERY_S: Final = 30.0
_PRUNE_AT_ONCE: Final = 1_000

Change = Callable[[sqlite3.Connection], Sequence[Session]]
"""Works in the transaction and returns the sessions that it has changed; it may be called again after a failure."""


class Sessions:
    """The `Outbox` of the groups in main, and what clients do to sessions. Used on one event loop.

    What changes a session reads it in the same transaction, so changes made at once lose nothing. Every coroutine that
    changes something may raise `ServiceError`: the spool refused, and nothing has changed.
    """

    def __init__(self, spool: Spool, caches: SessionCacheManager, *, ttl_s: float, clock: Clock) -> None:
        self._spool, self.caches, self._ttl_s, self._clock = spool, caches, ttl_s, clock
        self.save_visit, self.forget_visit = spool.save_visit, spool.forget_visit
        self.live_visits = spool.live_visits
        self._displays: dict[str, SessionId] = {}
        self._in_use: Counter[str] = Counter()  # the spool's thread looks into it too, one key at a time
        self._changes = 0
        self._writing: set[asyncio.Task[None]] = set()

    async def start(self, displays: SessionStateManager) -> None:
        """Tell the session of each display as it was when the worker ended; once the spool has been started."""
        for display_id, session_id in (await self._spool.file.read(load_displays)).items():
            self._note_display(display_id, session_id)
            displays.set(display_id, session_id)

    async def run(self) -> None:
        """Let go of what has expired, now and then, until cancelled."""
        while True:
            await asyncio.sleep(_PRUNE_EVERY_S)
            await self.caches.cleanup_expired()
            try:
                while await self.prune() == _PRUNE_AT_ONCE:
                    pass
            except ServiceError as exc:  # nobody is refused for that
                _log.warning("Expired sessions stay for now: %s", exc)

    async def prune(self) -> int:
        """Remove some of the sessions that have expired, or are too many, from the disk; return how many that were."""
        until, in_use = self._clock.utc_s() - self._ttl_s, frozenset(self._in_use)
        outlived = await self._spool.file.read(
            lambda connection: find_outlived(
                connection, until=until, max_kept=_MAX_KEPT, in_use=in_use, at_most=_PRUNE_AT_ONCE
            )
        )
        statement = "DELETE FROM sessions WHERE session_id = ? AND changed_at = ?"  # unless it was used meanwhile
        if not outlived:
            return 0
        return await self._spool.file.forget(lambda connection: connection.executemany(statement, outlived).rowcount)

    async def accept(
        self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None, session: SessionEntry | None = None
    ) -> None:
        """See `core.outbox.Outbox.accept`; the visit's detections become the latest of its camera."""
        if session is None:
            await self._spool.accept(entries, visit=visit)
            return

        def add_record(connection: sqlite3.Connection) -> Sequence[Session]:
            now = self._clock.utc_s()
            before = self._opened(connection, session.session_id, now)
            after = before.with_record(session, now)
            # What it was patched with before its row was there.
            waited = {one.record_id for one in before.records if one.place is None} & {session.record_id}
            self._patch_rows(connection, [one for one in after.records if one.record_id in waited], before.data)
            return [after]

        await self._write(add_record, entries=entries, visit=visit)
        if visit is not None:
            await self.caches.cache_detection(session.camera_id, _detections(visit))

    async def note_result(self, session_id: SessionId, record_id: str, result: PipelineResult) -> None:
        """Take what a visit's run came to."""
        await self.caches.cache_pipeline_result(str(session_id), result)

        def add_status(connection: sqlite3.Connection) -> Sequence[Session]:
            session = self._live(load(connection, str(session_id)))
            return [] if session is None else [session.with_status(record_id, result.status, self._clock.utc_s())]

        await self._write(add_status)

    async def set_display(self, display_id: str, session_id: SessionId | None) -> None:
        """Put a display into a session, which is opened where there is none; None: into none.

        The session that it leaves stays for its time: what belongs to it may still come.

        Raises:
            MessageProcessingError: There are too many displays (``limit_exceeded``).
        """
        left = self._displays.get(display_id)
        if left is None and session_id is not None and len(self._displays) >= _MAX_DISPLAYS:
            what, mend = f"{_MAX_DISPLAYS} displays are in sessions", "End some of these sessions first."
            raise _refused(what, mend, code="limit_exceeded", field="displayIdentifier")

        def exchange(connection: sqlite3.Connection) -> Sequence[Session]:
            now, changed = self._clock.utc_s(), []
            if left is not None:
                changed.append(self._opened(connection, left, now))
            if session_id is None:
                end_display(connection, display_id)
            else:
                set_display(connection, display_id, session_id)
                changed.append(replace(self._opened(connection, session_id, now), session_id=session_id))
            return changed

        await self._write(exchange, then=lambda: self._note_display(display_id, session_id))

    async def patch(self, session_id: SessionId, data: Mapping[str, FieldValue]) -> Mapping[str, FieldValue]:
        """Merge data into a session, one level deep, and into its records' rows; return all data of the session.

        None deletes a key, and is NULL in a row.

        Raises:
            MessageProcessingError: There is no such session (``not_found``), or it would be too large
                (``limit_exceeded``).
        """
        known = await self.get(session_id)
        if known is None:
            raise _refused("There is no such session", "Name one that is in use, or was lately.", field="sessionId")
        if len(orjson.dumps(known.patched(data, 0.0).data)) > _MAX_DATA_BYTES:
            what, mend = f"A session holds at most {_MAX_DATA_BYTES} bytes of data", "Delete keys of it, with null."
            raise _refused(what, mend, code="limit_exceeded", field="data")
        merged: Mapping[str, FieldValue] = {}

        def merge(connection: sqlite3.Connection) -> Sequence[Session]:
            nonlocal merged
            session = (load(connection, known.key) or known).patched(data, self._clock.utc_s())
            merged = session.data
            self._patch_rows(connection, session.records, data)
            return [session]

        await self._write(merge)
        return merged

    async def get(self, session_id: SessionId) -> Session | None:
        """Return a session; None where there is none, or no longer."""
        key, changes = str(session_id), self._changes
        cached = await self.caches.session(key)
        if cached is not None:
            return self._live(Session.from_values(cached))
        session = self._live(await self._spool.file.read(lambda connection: load(connection, key)))
        if session is not None and changes == self._changes:  # else it may be older than what is cached by now
            await self.caches.create_session(key, asdict(session))
        return session

    async def _write(
        self,
        change: Change,
        *,
        entries: Sequence[SpoolEntry] = (),
        visit: SavedVisit | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Change sessions on disk, together with what is accepted, then in the cache.

        Where the caller is cancelled it goes on: the cache must not differ from what has come to the disk.
        """
        changed: list[Session] = []

        def also(connection: sqlite3.Connection) -> None:
            changed[:] = change(connection)
            for session in changed:
                store(connection, session)

        async def write() -> None:
            await self._spool.accept(entries, visit=visit, also=also)
            self._spool.wake(Sink.POSTGRESQL)  # for the rows that are patched
            self._changes += 1
            then()
            for session in changed:
                await self.caches.create_session(session.key, asdict(session))

        task = asyncio.create_task(write(), name="session")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        await asyncio.shield(task)

    def _patch_rows(
        self, connection: sqlite3.Connection, records: Sequence[SessionRecord], data: Mapping[str, FieldValue]
    ) -> None:
        """Accept what changes the rows, but never a row's key: what is still to come for it goes by that.

        With their visits' ids, so that each comes after its row was made.
        """
        now, entries = self._clock.utc_s(), []
        for record in records:
            if (place := record.place) is None:
                continue
            fields = {name: value for name, value in data.items() if name != place.key_field}
            if fields:
                patch = PatchRecord(place.table, place.key_field, place.key_value, fields)
                key = f"{record.record_id}:patch:{uuid_utils.uuid7()}"
                entries.append(SpoolEntry(key, record.record_id, now, patch))
        self._spool.insert(connection, entries)

    def _opened(self, connection: sqlite3.Connection, session_id: SessionId, now: float) -> Session:
        """Return a session as used now, an empty one where there is none."""
        session = self._live(load(connection, str(session_id)))
        return Session(session_id, now, {}) if session is None else replace(session, changed_at=now)

    def _live(self, session: Session | None) -> Session | None:
        """Return the session unless it has expired."""
        if session is None or self._clock.utc_s() - session.changed_at < self._ttl_s or session.key in self._in_use:
            return session
        return None

    def _note_display(self, display_id: str, session_id: SessionId | None) -> None:
        if (left := self._displays.pop(display_id, None)) is not None:
            self._in_use[str(left)] -= 1
            if not self._in_use[str(left)]:
                del self._in_use[str(left)]
        if session_id is not None:
            self._displays[display_id] = session_id
            self._in_use[str(session_id)] += 1


def _detections(saved: SavedVisit) -> list[DetectionResult]:
    """Return what was seen on the frame that made a visit stable, the whole object first."""
    visit = saved.visit
    whole = DetectionResult(visit.class_name, visit.confidence, visit.bounding_box, visit.track_id, visit.captured_at)
    return [whole, *visit.parts]


def _refused(what: str, mend: str, *, code: str = "not_found", field: str) -> MessageProcessingError:
    return MessageProcessingError(what, where="sessions", mend=mend, code=code, field=field)
