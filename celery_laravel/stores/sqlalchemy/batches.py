"""Batches in an SQL database."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, and_, delete, select, true, tuple_, update

from celery_laravel.errors import BatchFinishedError, BatchNotFoundError
from celery_laravel.stores.records import BatchChange, BatchRecord, MemberState
from celery_laravel.stores.sqlalchemy.batch_changes import (
    KINDS,
    callbacks_of,
    closing,
    ending,
    fired_by,
    record_of,
    told,
    waiting_in,
)
from celery_laravel.stores.sqlalchemy.columns import Identifier, given, giving, lasting, microseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from celery_laravel.stores.records import Callback, MemberEnd, NewBatch
    from celery_laravel.stores.sqlalchemy.dialects import Change, Count
    from celery_laravel.stores.sqlalchemy.engine import Database

_SLICE = 200  # rows of one INSERT or IN: SQLite takes no more than some thousand parameters, older ones 999


class SQLBatchStore:
    """A `BatchStore` in three tables: batches, the members that have ended, and the ids of those that failed.

    A batch's row is its lock. Whoever ends a member locks the row, puts down the
    member, moves the counts and commits; the next one sees all of that.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
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
        statement = self._database.dialect.insert_new(self._batches).values(values)

        def work(connection: Connection) -> BatchRecord:
            connection.execute(statement)
            row = self._lock(connection, batch.id)
            assert row is not None, "nobody deletes what this transaction has inserted or locked"
            return self._record(connection, row)

        return self._database.transaction(work)

    def add(self, batch_id: str, count: int) -> int:
        parameters = giving(id=batch_id, more=count)
        # Not repeatable: members added twice would be waited for for ever.
        row = self._database.single(lambda connection: self._addition(connection, parameters), repeatable=False)
        if row is not None:
            return int(row.total) - count
        if self._database.single(lambda connection: self._find(connection, batch_id)) is None:
            raise BatchNotFoundError(batch_id)
        raise BatchFinishedError(batch_id)

    def close(self, batch_id: str) -> BatchChange:
        def work(connection: Connection) -> BatchChange:
            row = self._closing(connection, giving(id=batch_id))
            if row is not None:
                return BatchChange(self._record(connection, row), changed=True, due=fired_by(row, failed=False))
            unchanged = self._unchanged(connection, batch_id)
            if unchanged is None:
                raise BatchNotFoundError(batch_id)
            return unchanged

        return self._database.transaction(work)

    def end_member(self, end: MemberEnd) -> BatchChange | None:
        return self._database.transaction(lambda connection: self.end_member_within(connection, end))

    def end_member_within(self, connection: Connection, end: MemberEnd) -> BatchChange | None:
        """`end_member`, as part of a transaction."""
        member = giving(id=end.batch_id, position=end.index, state=int(end.state))
        if not self._marking(connection, member):
            return self._unchanged(connection, end.batch_id)
        skipped = self._skip(connection, end) if end.skips else 0
        counts = giving(
            id=end.batch_id,
            ended=1 + skipped,
            skipped=skipped + (end.state is MemberState.SKIPPED),
            exception=None if end.exception is None else dict(end.exception),
        )
        failed = end.state is MemberState.FAILED
        if failed:
            connection.execute(self._noting, giving(id=end.batch_id, position=end.index, job_id=end.job_id))
        row = (self._failure if failed else self._ending)(connection, counts)
        assert row is not None, "the row has been locked since the member was marked"
        return BatchChange(self._record(connection, row), changed=True, due=fired_by(row, failed=failed))

    def revive(self, batch_id: str, index: int, *, job_id: str, skips: Sequence[int] = ()) -> BatchChange | None:
        def work(connection: Connection) -> BatchChange | None:
            row = self._lock(connection, batch_id)
            if row is None:
                return None
            failures, members = self._failures.c, self._members.c
            failure = (failures.batch == row.number, failures.position == index, failures.job_id == job_id)
            if not connection.execute(delete(self._failures).where(*failure)).rowcount:
                return BatchChange(self._record(connection, row), changed=False)
            connection.execute(delete(self._members).where(members.batch == row.number, members.position == index))
            skipped = 0
            for part in _sliced(skips):
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
            revived = self._unchanged(connection, batch_id)
            return None if revived is None else replace(revived, changed=True)

        return self._database.transaction(work)

    def cancel(self, batch_id: str) -> BatchChange | None:
        def work(connection: Connection) -> BatchChange | None:
            batch = self._batches.c
            cancelling = update(self._batches).where(batch.id == batch_id, batch.cancelled_at.is_(None))
            changed = connection.execute(cancelling.values(cancelled_at=self._database.dialect.now)).rowcount > 0
            row = self._lock(connection, batch_id)
            return None if row is None else BatchChange(self._record(connection, row), changed=changed)

        return self._database.transaction(work)

    def find(self, batch_id: str) -> BatchRecord | None:
        row = self._database.single(lambda connection: self._find(connection, batch_id))
        if row is None or not row.failed:
            return None if row is None else record_of(row, ())

        def work(connection: Connection) -> BatchRecord | None:
            row = self._find(connection, batch_id)
            return None if row is None else self._record(connection, row)

        return self._database.snapshot(work)

    def all(self, *, limit: int = 50, before: str | None = None) -> list[BatchRecord]:
        batch = self._batches.c
        found = select(*told(self._batches)).order_by(batch.created_at.desc(), batch.id.desc()).limit(limit)
        if before is not None:
            last = self._batches.alias("last")
            found = found.join(last, last.c.id == before)
            found = found.where(tuple_(batch.created_at, batch.id) < tuple_(last.c.created_at, last.c.id))
        return self._database.snapshot(lambda connection: self._records(connection, connection.execute(found).all()))

    def delete(self, batch_id: str) -> bool:
        return self._database.transaction(lambda connection: self._remove(connection, self._batches.c.id == batch_id))

    def mark_sent(self, batch_id: str, callbacks: Sequence[tuple[str, int]]) -> None:
        def work(connection: Connection) -> None:
            whole = select(self._batches).where(self._mine).with_for_update()
            row = connection.execute(whole, giving(id=batch_id)).first()
            if row is not None:
                changes = _without(row, callbacks)
                connection.execute(update(self._batches).where(self._batches.c.number == row.number).values(changes))

        self._database.transaction(work)

    def due(self, *, older_than: timedelta) -> list[tuple[BatchRecord, Callback]]:
        batch = self._batches.c
        latest = self._database.dialect.now - lasting(older_than)
        found = select(self._batches, latest.label("latest")).where(batch.due <= latest)
        found = found.order_by(batch.due, batch.number).limit(_SLICE)

        def work(connection: Connection) -> list[tuple[BatchRecord, Callback]]:
            rows = connection.execute(found).all()
            waiting = [
                (since, record, callback)
                for row, record in zip(rows, self._records(connection, rows), strict=True)
                for since, callback in waiting_in(row, row.latest)
            ]
            waiting.sort(key=lambda found: found[0])
            return [(record, callback) for _, record, callback in waiting]

        return self._database.snapshot(work)

    def prune(self, *, finished_before: datetime | None = None, created_before: datetime | None = None) -> int:
        removed = 0
        batch = self._batches.c
        ages: list[ColumnElement[bool]] = []
        if finished_before is not None:
            ages.append(batch.finished_at < microseconds(finished_before.timestamp()))
        if created_before is not None:
            is_older = batch.created_at < microseconds(created_before.timestamp())
            ages.append(and_(batch.finished_at.is_(None), is_older))
        for is_old in ages:
            for number in self._database.single(partial(_scalars, statement=select(batch.number).where(is_old))):
                # By age again, since it may have been revived meanwhile.
                remove = partial(self._remove, same=and_(batch.number == number, is_old))
                removed += self._database.transaction(remove)
        return removed

    # -- steps -------------------------------------------------------------------------------------
    def _skip(self, connection: Connection, end: MemberEnd) -> int:
        """Put down those of an end's skips that are members and pending; return how many."""
        row = connection.execute(self._finding, giving(id=end.batch_id)).one()
        skipped = 0
        for part in _sliced({index for index in end.skips if 0 <= index < row.total}):
            values = [{"batch": row.number, "position": i, "state": int(MemberState.SKIPPED)} for i in part]
            insertion = self._database.dialect.insert_new(self._members).values(values)
            skipped += self._database.dialect.counted(insertion)(connection, {})
        return skipped

    def _remove(self, connection: Connection, same: ColumnElement[bool]) -> bool:
        number = connection.scalar(select(self._batches.c.number).where(same).with_for_update())
        if number is None:
            return False
        connection.execute(delete(self._batches).where(self._batches.c.number == number))
        for table in (self._members, self._failures):
            connection.execute(delete(table).where(table.c.batch == number))
        return True

    # -- reading -----------------------------------------------------------------------------------
    def _find(self, connection: Connection, batch_id: str) -> Row[Any] | None:
        return connection.execute(self._finding, giving(id=batch_id)).first()

    def _lock(self, connection: Connection, batch_id: str) -> Row[Any] | None:
        return connection.execute(self._locking, giving(id=batch_id)).first()

    def _unchanged(self, connection: Connection, batch_id: str) -> BatchChange | None:
        """The batch as it stands, locked, so that its failed ids go with its counts; None when it is not known."""
        row = self._lock(connection, batch_id)
        return None if row is None else BatchChange(self._record(connection, row), changed=False)

    def _record(self, connection: Connection, row: Row[Any]) -> BatchRecord:
        return self._records(connection, [row])[0]

    def _records(self, connection: Connection, rows: Sequence[Row[Any]]) -> list[BatchRecord]:
        """The records of rows, with the failed ids of now: the transaction holds the rows, or sees one instant."""
        failed: dict[int, list[str]] = {row.number: [] for row in rows if row.failed}
        for part in _sliced(failed):
            for failure in connection.execute(self._failed, giving(numbers=part)):
                failed[failure.batch].append(failure.job_id)
        return [record_of(row, failed.get(row.number, ())) for row in rows]

    # -- statements --------------------------------------------------------------------------------
    @cached_property
    def _mine(self) -> ColumnElement[bool]:
        return self._batches.c.id == given("id", Identifier())

    @cached_property
    def _finding(self) -> Select[Any]:
        return select(*told(self._batches)).where(self._mine)

    @cached_property
    def _locking(self) -> Select[Any]:
        return self._finding.with_for_update()

    @cached_property
    def _failed(self) -> Select[Any]:
        failures = self._failures.c
        mine = failures.batch.in_(given("numbers", expanding=True))
        return select(failures.batch, failures.job_id).where(mine)

    @cached_property
    def marked(self) -> Select[Any]:
        """The row to put down for a member of ``given_position``, if there is such a member; locks the batch."""
        batch = self._batches.c
        position = given("position")
        is_member = and_(self._mine, position >= 0, batch.total > position)
        return select(batch.number, position, given("state", Integer())).where(is_member).with_for_update()

    @cached_property
    def _marking(self) -> Count:
        insertion = self._database.dialect.insert_new(self._members)
        return self._database.dialect.counted(insertion.from_select(["batch", "position", "state"], self.marked))

    @cached_property
    def _noting(self) -> Any:
        row = select(self._batches.c.number, given("position"), given("job_id", Identifier())).where(self._mine)
        return self._failures.insert().from_select(["batch", "position", "job_id"], row)

    @cached_property
    def _ending(self) -> Change:
        return self._change(ending(self._batches, self._database.dialect.now))

    @cached_property
    def _failure(self) -> Change:
        return self._change(ending(self._batches, self._database.dialect.now, fails=True))

    @cached_property
    def _closing(self) -> Change:
        return self._change(closing(self._batches, self._database.dialect.now), self._batches.c.is_open == true())

    @cached_property
    def _addition(self) -> Change:
        batch, more = self._batches.c, given("more")
        grown = {batch.total: batch.total + more, batch.pending: batch.pending + more}
        return self._change(grown, batch.finished_at.is_(None), columns=[batch.total])

    def _change(
        self, changes: Any, *conditions: ColumnElement[bool], columns: Sequence[ColumnElement[Any]] | None = None
    ) -> Change:
        statement = update(self._batches).where(self._mine, *conditions).ordered_values(*changes.items())
        return self._database.dialect.change(statement, columns=columns or told(self._batches), where=self._mine)


def _without(row: Row[Any], callbacks: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """The changes to a batch's row once callbacks have been sent."""
    sent = {(kind, position) for kind, position in row.sent} | set(callbacks)
    changes: dict[str, Any] = {"sent": [], "due": None}
    for kind in KINDS:
        since = getattr(row, f"{kind}_due")
        if since is None:
            continue
        marked = [(c.kind, c.position) for c in callbacks_of(row, kind) if (c.kind, c.position) in sent]
        if len(marked) == getattr(row, f"{kind}_count"):
            changes[f"{kind}_due"] = None
        else:
            changes["sent"] += marked
            changes["due"] = since if changes["due"] is None else min(since, changes["due"])
    return changes


def _scalars(connection: Connection, statement: Select[Any]) -> Sequence[Any]:
    return connection.scalars(statement).all()


def _sliced(items: Iterable[Any]) -> Iterable[list[Any]]:
    listed = list(items)
    return (listed[start : start + _SLICE] for start in range(0, len(listed), _SLICE))
