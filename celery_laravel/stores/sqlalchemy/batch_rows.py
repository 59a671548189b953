"""The rows of batches: how they are read, and the statements that are built once and run often."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import SmallInteger, and_, select, true, type_coerce, update

from celery_laravel.stores.records import FAILED_IDS_NAMED, BatchChange
from celery_laravel.stores.sqlalchemy.batch_changes import closing, ending, record_of, told
from celery_laravel.stores.sqlalchemy.columns import Identifier, Identifiers, given, giving

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from celery_laravel.stores.records import BatchRecord
    from celery_laravel.stores.sqlalchemy.batch_changes import Changes
    from celery_laravel.stores.sqlalchemy.dialects.contract import Change, Count
    from celery_laravel.stores.sqlalchemy.engine import Database

SLICE = 200  # rows of one INSERT or IN: SQLite takes no more than some thousand parameters, older ones 999


class BatchRows:
    """Reads and changes the rows of batches within a connection's transaction."""

    def __init__(self, database: Database) -> None:
        self._dialect = database.dialect
        self._batches = database.tables.batches
        self._members = database.tables.members
        self._failures = database.tables.failures

    # -- reading -----------------------------------------------------------------------------------
    def find(self, connection: Connection, batch_id: str) -> Row[Any] | None:
        """A batch's row as it is."""
        return connection.execute(self._finding, giving(id=batch_id)).first()

    def lock(self, connection: Connection, batch_id: str) -> Row[Any] | None:
        """A batch's row, which stays as it is until the transaction ends."""
        return connection.execute(self._locking, giving(id=batch_id)).first()

    def unchanged(self, connection: Connection, batch_id: str) -> BatchChange | None:
        """The batch as it stands, locked, so that its failed ids go with its counts; None when it is not known."""
        row = self.lock(connection, batch_id)
        return None if row is None else BatchChange(self.record(connection, row), changed=False)

    def record(self, connection: Connection, row: Row[Any]) -> BatchRecord:
        """The record of one row; see `records`."""
        return self.records(connection, [row])[0]

    def records(self, connection: Connection, rows: Sequence[Row[Any]]) -> list[BatchRecord]:
        """The records of rows, with the failed ids of now: the transaction holds the rows, or sees one instant."""
        failed: dict[int, list[str]] = {row.number: [] for row in rows if 0 < row.failed <= FAILED_IDS_NAMED}
        for part in sliced(failed):
            for failure in connection.execute(self._failed, giving(numbers=part)):
                failed[failure.batch].append(failure.job_id)
        for row in rows:
            if row.failed > FAILED_IDS_NAMED and row.number not in failed:  # one batch may have several rows here
                failed[row.number] = list(connection.scalars(self._some_failed, giving(number=row.number)))
        return [record_of(row, failed.get(row.number, ())) for row in rows]

    def look(self, connection: Connection, batch_id: str) -> BatchRecord | None:
        """The record of a batch as it is, by one statement."""
        row = connection.execute(self._looking, giving(id=batch_id)).first()
        return None if row is None else record_of(row, row.named or ())

    def failed_ids(self, connection: Connection, batch_id: str) -> list[str]:
        """The ids of all its failed jobs."""
        return list(connection.scalars(self._all_failed, giving(id=batch_id)))

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
        return select(failures.batch, failures.job_id).where(failures.batch.in_(given("numbers", expanding=True)))

    @cached_property
    def _some_failed(self) -> Select[Any]:
        """In their order, so that a batch that has not changed is told in the same words."""
        failures = self._failures.c
        mine = select(failures.job_id).where(failures.batch == given("number"))
        return mine.order_by(failures.position).limit(FAILED_IDS_NAMED)

    @cached_property
    def _all_failed(self) -> Select[Any]:
        """Finds the batch under a name of its own, to stand inside a statement that finds it too."""
        failures, owner = self._failures.c, self._batches.alias("owner")
        ids = select(failures.job_id).join(owner, owner.c.number == failures.batch)
        return ids.where(owner.c.id == given("id", Identifier())).order_by(failures.position)

    @cached_property
    def _looking(self) -> Select[Any]:
        some = self._all_failed.limit(FAILED_IDS_NAMED).subquery("some")
        named = select(type_coerce(self._dialect.listed(some.c.job_id), Identifiers())).scalar_subquery()
        return select(*told(self._batches), named.label("named")).where(self._mine)

    # -- changing ----------------------------------------------------------------------------------
    @cached_property
    def mark(self) -> Count:
        """Lock the batch ``given_id``, and put down ``given_state`` of the member ``given_position``.

        The count is 0 when the member has ended before, and when there is no
        such member.
        """
        batch, position = self._batches.c, given("position")
        is_member = and_(self._mine, position >= 0, batch.total > position)
        row = select(batch.number, position, given("state", SmallInteger())).where(is_member).with_for_update()
        insertion = self._dialect.insert_new(self._members)
        return self._dialect.counted(insertion.from_select(["batch", "position", "state"], row))

    @cached_property
    def note(self) -> Count:
        """Put down that the member ``given_position`` of the batch ``given_id`` failed as ``given_job_id``."""
        row = select(self._batches.c.number, given("position"), given("job_id", Identifier())).where(self._mine)
        insertion = self._dialect.insert_new(self._failures)
        return self._dialect.counted(insertion.from_select(["batch", "position", "job_id"], row))

    @cached_property
    def end(self) -> Change:
        """Count members that ended, none of which failed; see `ending` for this and the next."""
        return self._change(ending(self._batches, self._dialect.now))

    @cached_property
    def fail(self) -> Change:
        """Count members that ended, one of which failed."""
        return self._change(ending(self._batches, self._dialect.now, fails=True))

    @cached_property
    def close(self) -> Change:
        """Close the batch ``given_id`` if it is open."""
        return self._change(closing(self._batches, self._dialect.now), self._batches.c.is_open == true())

    @cached_property
    def grow(self) -> Change:
        """Add ``given_more`` pending members to the batch ``given_id`` if it has not finished; gives the total."""
        batch, more = self._batches.c, given("more")
        grown: Changes = {batch.total: batch.total + more, batch.pending: batch.pending + more}
        return self._change(grown, batch.finished_at.is_(None), columns=[batch.total])

    def _change(
        self, changes: Changes, *conditions: ColumnElement[bool], columns: Sequence[ColumnElement[Any]] | None = None
    ) -> Change:
        statement = update(self._batches).where(self._mine, *conditions).ordered_values(*changes.items())
        return self._dialect.change(statement, columns=columns or told(self._batches), where=self._mine)


def sliced(items: Iterable[Any]) -> Iterator[list[Any]]:
    """The items in lists that fit into one statement."""
    listed = list(items)
    return (listed[start : start + SLICE] for start in range(0, len(listed), SLICE))
