"""Batches in an SQL database."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, tuple_, update

from celery_laravel.errors import BatchFinishedError, BatchNotFoundError
from celery_laravel.stores.records import BatchChange, MemberEnd, MemberState
from celery_laravel.stores.sqlalchemy.batch_changes import (
    KINDS,
    fired_by,
    in_order,
    told,
    waiting_in,
    without,
)
from celery_laravel.stores.sqlalchemy.batch_many import ManyMembers
from celery_laravel.stores.sqlalchemy.batch_owed import OwedCallbacks, called, owes
from celery_laravel.stores.sqlalchemy.batch_removal import BatchRemoval
from celery_laravel.stores.sqlalchemy.batch_rows import SLICE, BatchRows, sliced
from celery_laravel.stores.sqlalchemy.columns import giving, lasting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import Connection

    from celery_laravel.stores.records import BatchRecord, Callback, Mark, NewBatch
    from celery_laravel.stores.sqlalchemy.engine import Database
    from celery_laravel.stores.sqlalchemy.settling import SettlingInOne


class SQLBatchStore:
    """A `BatchStore` in four tables: batches, members that have ended, the ids of those that failed, callbacks owed.

    A batch's row is its lock. Whoever ends a member locks the row, puts down the
    member, moves the counts and commits; the next one sees all of that.
    """

    def __init__(self, database: Database, settle_in_one: SettlingInOne) -> None:
        self._database = database
        self._settle_in_one = settle_in_one
        self._rows = BatchRows(database)
        self._many = ManyMembers(database)
        self._owed = OwedCallbacks(database)
        self._removal = BatchRemoval(database, self._owed.remove)
        self._batches = database.tables.batches
        self._members = database.tables.members
        self._failures = database.tables.failures

    def create(self, batch: NewBatch) -> BatchRecord:
        callbacks = {kind: list(signatures) for kind, signatures in batch.callbacks.items()}
        counts = {f"{kind}_count": len(callbacks.get(kind, ())) for kind in ("catch", "then", "finally")}
        values = {
            "id": batch.id,
            "name": batch.name,
            "options": dict(batch.options),
            "callbacks": callbacks,
            "allows_failures": batch.allows_failures,
            "is_open": True,
            "created_at": self._database.dialect.now,
            "sent": [],
            **dict.fromkeys(("total", "pending", "failed", "skipped"), 0),
            **dict.fromkeys(("times_failed", "times_succeeded", "times_finished"), 0),
            **counts,
        }
        if owes(callbacks):
            values["owes"] = True
        statement = self._database.dialect.insert_new(self._batches).values(values)

        def work(connection: Connection) -> BatchRecord:
            is_new = self._database.dialect.counted(statement)(connection, {})
            row = self._rows.lock(connection, batch.id)
            assert row is not None, "nobody deletes what this transaction has inserted or locked"
            if is_new and callbacks.get("before"):
                self._owed.created(connection, row)
            return self._rows.record(connection, row)

        return self._database.transaction(work)

    def add(self, batch_id: str, count: int) -> int:
        parameters = giving(id=batch_id, more=count)
        # Not repeatable: members added twice would be waited for for ever.
        row = self._database.single(lambda connection: self._rows.grow(connection, parameters), repeatable=False)
        if row is not None:
            return int(row.total) - count
        if self._database.single(lambda connection: self._rows.find(connection, batch_id)) is None:
            raise BatchNotFoundError(batch_id)
        raise BatchFinishedError(batch_id)

    def close(self, batch_id: str) -> BatchChange:
        def work(connection: Connection) -> BatchChange:
            row = self._rows.close(connection, giving(id=batch_id))
            if row is not None:
                due = in_order(self._owed.finished(connection, row) + fired_by(row, failed=False))
                return BatchChange(self._rows.record(connection, row), changed=True, due=due)
            unchanged = self._rows.unchanged(connection, batch_id)
            if unchanged is None:
                raise BatchNotFoundError(batch_id)
            return unchanged

        return self._database.transaction(work)

    def end_member(self, end: MemberEnd) -> BatchChange | None:
        change = self._settle_in_one(end, None)
        if change is not None:
            return change
        return self._database.transaction(lambda connection: self.end_member_within(connection, end))

    def end_member_within(self, connection: Connection, end: MemberEnd) -> BatchChange | None:
        """`end_member`, as part of a transaction."""
        member = giving(id=end.batch_id, position=end.index, state=int(end.state))
        if not self._rows.mark(connection, member):
            return self._rows.unchanged(connection, end.batch_id)
        skipped = self._skip(connection, end) if end.skips else 0
        counts = giving(
            id=end.batch_id,
            ended=1 + skipped,
            skipped=skipped + (end.state is MemberState.SKIPPED),
            exception=None if end.exception is None else dict(end.exception),
        )
        failed = end.state is MemberState.FAILED
        if failed:
            self._rows.note(connection, giving(id=end.batch_id, position=end.index, job_id=end.job_id))
        row = (self._rows.fail if failed else self._rows.end)(connection, counts)
        assert row is not None, "the row has been locked since the member was marked"
        if row.failed or owes(row.callbacks):
            self._settle_in_one.avoid(end.batch_id)
        due = self._owed.ended(connection, row, end) + self._owed.finished(connection, row)
        due = in_order(due + fired_by(row, failed=failed))
        return BatchChange(self._rows.record(connection, row), changed=True, due=due)

    def end_members(self, batch_id: str, indices: Sequence[int]) -> BatchChange | None:
        return self._database.transaction(lambda connection: self._end_members(connection, batch_id, indices))

    def _end_members(self, connection: Connection, batch_id: str, indices: Sequence[int]) -> BatchChange | None:
        row = self._rows.lock(connection, batch_id)
        if row is None:
            return None
        if "progress" in row.callbacks:
            return self._end_each(connection, batch_id, indices)
        ended = self._many.put_down(connection, row, indices, MemberState.SUCCEEDED)
        if not ended:
            return BatchChange(self._rows.record(connection, row), changed=False)
        row = self._rows.end(connection, giving(id=batch_id, ended=ended, skipped=0, exception=None))
        assert row is not None, "the row has been locked since it was read"
        due = in_order(self._owed.finished(connection, row) + fired_by(row, failed=False))
        return BatchChange(self._rows.record(connection, row), changed=True, due=due)

    def _end_each(self, connection: Connection, batch_id: str, indices: Sequence[int]) -> BatchChange | None:
        """`_end_members` one by one, where each of them makes callbacks of its own due."""
        ends = [MemberEnd(batch_id, index, "", MemberState.SUCCEEDED) for index in sorted(indices)]
        changes = [change for end in ends if (change := self.end_member_within(connection, end)) and change.changed]
        due = in_order(tuple(callback for change in changes for callback in change.due))
        after = self._rows.unchanged(connection, batch_id)
        return None if after is None else replace(after, changed=bool(changes), due=due)

    def ended(self, batch_id: str, indices: Sequence[int]) -> frozenset[int]:
        return self._database.snapshot(lambda connection: self._many.ended(connection, batch_id, indices))

    def revive(self, batch_id: str, index: int, *, job_id: str, skips: Sequence[int] = ()) -> BatchChange | None:
        def work(connection: Connection) -> BatchChange | None:
            row = self._rows.lock(connection, batch_id)
            if row is None:
                return None
            failures, members = self._failures.c, self._members.c
            failure = (failures.batch == row.number, failures.position == index, failures.job_id == job_id)
            if not connection.execute(delete(self._failures).where(*failure)).rowcount:
                return BatchChange(self._rows.record(connection, row), changed=False)
            connection.execute(delete(self._members).where(members.batch == row.number, members.position == index))
            skipped = 0
            for part in sliced(skips):
                again = (members.position.in_(part), members.state == int(MemberState.SKIPPED))
                skipped += connection.execute(delete(self._members).where(members.batch == row.number, *again)).rowcount
            batch = self._batches.c
            connection.execute(
                update(self._batches)
                .where(batch.number == row.number)
                .values(
                    {
                        batch.pending: batch.pending + 1 + skipped,
                        batch.failed: batch.failed - 1,
                        batch.skipped: batch.skipped - skipped,
                        batch.finished_at: None,
                    }
                )
            )
            revived = self._rows.unchanged(connection, batch_id)
            return None if revived is None else replace(revived, changed=True)

        return self._database.transaction(work)

    def cancel(self, batch_id: str) -> BatchChange | None:
        def work(connection: Connection) -> BatchChange | None:
            batch = self._batches.c
            cancelling = update(self._batches).where(batch.id == batch_id, batch.cancelled_at.is_(None))
            changed = connection.execute(cancelling.values(cancelled_at=self._database.dialect.now)).rowcount > 0
            row = self._rows.lock(connection, batch_id)
            return None if row is None else BatchChange(self._rows.record(connection, row), changed=changed)

        return self._database.transaction(work)

    def find(self, batch_id: str) -> BatchRecord | None:
        return self._database.single(lambda connection: self._rows.look(connection, batch_id))

    def failed_ids(self, batch_id: str) -> list[str]:
        return self._database.single(lambda connection: self._rows.failed_ids(connection, batch_id))

    def all(self, *, limit: int = 50, before: str | None = None) -> list[BatchRecord]:
        batch = self._batches.c
        found = select(*told(self._batches)).order_by(batch.created_at.desc(), batch.id.desc()).limit(limit)
        if before is not None:
            last = self._batches.alias("last")
            found = found.join(last, last.c.id == before)
            found = found.where(tuple_(batch.created_at, batch.id) < tuple_(last.c.created_at, last.c.id))
        return self._database.snapshot(
            lambda connection: self._rows.records(connection, connection.execute(found).all())
        )

    def delete(self, batch_id: str) -> bool:
        return self._removal.one(batch_id)

    def mark_sent(self, batch_id: str, callbacks: Sequence[Mark]) -> None:
        own = [mark for mark in callbacks if mark.kind in KINDS]
        owed = [mark for mark in callbacks if mark.kind not in KINDS]

        def work(connection: Connection) -> None:
            if owed:
                self._owed.sent(connection, batch_id, owed)
            if not own:
                return
            whole = select(self._batches).where(self._batches.c.id == batch_id).with_for_update()
            row = connection.execute(whole).first()
            if row is not None:
                changes = without(row, own)
                connection.execute(update(self._batches).where(self._batches.c.number == row.number).values(changes))

        self._database.transaction(work)

    def due(self, *, older_than: timedelta) -> list[tuple[BatchRecord, Callback]]:
        batch = self._batches.c
        latest = self._database.dialect.now - lasting(older_than)
        found = select(self._batches, latest.label("latest")).where(batch.due <= latest)
        found = found.order_by(batch.due, batch.number).limit(SLICE)

        def work(connection: Connection) -> list[tuple[BatchRecord, Callback]]:
            rows = connection.execute(found).all()
            owed = self._owed.waiting(connection, latest)
            records = self._rows.records(connection, owed)
            waiting = [(row.since, record, called(row)) for row, record in zip(owed, records, strict=True)]
            waiting += [
                (since, record, callback)
                for row, record in zip(rows, self._rows.records(connection, rows), strict=True)
                for since, callback in waiting_in(row, row.latest)
            ]
            waiting.sort(key=lambda found: found[0])
            return [(record, callback) for _, record, callback in waiting]

        return self._database.snapshot(work)

    def prune(
        self,
        *,
        finished_before: datetime | None = None,
        created_before: datetime | None = None,
        cancelled_before: datetime | None = None,
    ) -> int:
        return self._removal.prune(finished_before, created_before, cancelled_before)

    # -- steps -------------------------------------------------------------------------------------
    def _skip(self, connection: Connection, end: MemberEnd) -> int:
        """Put down those of an end's skips that are members and pending; return how many."""
        row = self._rows.find(connection, end.batch_id)
        assert row is not None, "the row has been locked since the member was marked"
        return self._many.put_down(connection, row, end.skips, MemberState.SKIPPED)
