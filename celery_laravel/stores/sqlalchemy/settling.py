"""What happens most often, the end of a member that succeeded, in one statement and so in one round trip.

PostgreSQL can change several tables in one statement. The batch's row is
then locked for as long as the server takes, and not for as long as a client
takes to send four statements after each other.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, false, literal_column, select, update

from celery_laravel.stores.records import BatchChange, MemberState
from celery_laravel.stores.sqlalchemy.batch_changes import ending, fired_by, record_of, told
from celery_laravel.stores.sqlalchemy.columns import Identifier, given, giving
from celery_laravel.stores.sqlalchemy.dialects.postgresql import PostgreSQL

if TYPE_CHECKING:
    from sqlalchemy import CTE, ColumnElement, Connection, Select

    from celery_laravel.stores.records import AttemptEnd, MemberEnd
    from celery_laravel.stores.sqlalchemy.attempts import SQLAttemptStore
    from celery_laravel.stores.sqlalchemy.engine import Database

_MOST_AVOIDED = 1000


class SettlingInOne:
    """Counts a success and ends its turn in one statement, where that can be done."""

    def __init__(self, database: Database, attempts: SQLAttemptStore) -> None:
        self._database = database
        self._attempts = attempts
        self._statement = lru_cache(self._build)
        self._avoided: set[str] = set()

    def avoid(self, batch_id: str) -> None:
        """Do not try this way for a batch any more: it has failures, or owes other callbacks."""
        if len(self._avoided) >= _MOST_AVOIDED:
            self._avoided.clear()
        self._avoided.add(batch_id)

    def __call__(
        self, member: MemberEnd, attempt: AttemptEnd | None, *, keep: timedelta = timedelta()
    ) -> BatchChange | None:
        """The change; None, and nothing changed, where this is not the way to settle it.

        It is for successes in batches that owe nothing else (see `OwedCallbacks`)
        and are without failures: the ids of failed
        members that a change tells could be of another instant than its counts,
        because a statement that had to wait for a lock sees only the row it
        waited for as it is now.
        """
        is_plain = member.state is MemberState.SUCCEEDED and not member.skips
        if not is_plain or member.batch_id in self._avoided or not isinstance(self._database.dialect, PostgreSQL):
            return None
        return self._database.single(lambda connection: self.within(connection, member, attempt, keep=keep))

    def within(
        self, connection: Connection, member: MemberEnd, attempt: AttemptEnd | None, *, keep: timedelta = timedelta()
    ) -> BatchChange | None:
        """The same, as part of a transaction; for PostgreSQL alone."""
        parameters = giving(id=member.batch_id, position=member.index)
        if attempt is not None:
            parameters.update(self._attempts.end_parameters(attempt, keep=keep))
        row = connection.execute(self._statement(ends_turn=attempt is not None), parameters).first()
        if row is None:
            return None
        return BatchChange(record_of(row, ()), changed=True, due=fired_by(row, failed=False))

    def _build(self, *, ends_turn: bool) -> Select[Any]:
        dialect = self._database.dialect
        assert isinstance(dialect, PostgreSQL)
        counted = self._count(dialect)
        statement = select(counted)
        if not ends_turn:
            return statement
        attempts = self._attempts
        turn = dialect.upsert_from(
            self._database.tables.attempts,
            values=attempts.end_values,
            changes=attempts.end_changes,
            where=attempts.may_end,
            source=counted,  # no member counted, no turn ended
        )
        return statement.add_cte(turn.cte("ended"))

    def _count(self, dialect: PostgreSQL) -> CTE:
        """Each part takes its rows from the one before, and so happens after it: lock, mark, count."""
        members = self._database.tables.members
        # A short name: psycopg does not remember how it takes apart what is longer than 4,096 characters.
        batches: Any = self._database.tables.batches.alias("b")
        position = given("position")
        is_member = and_(
            batches.c.id == given("id", Identifier()), position >= literal_column("0"), batches.c.total > position
        )
        locked = (
            select(batches.c.number)
            .where(is_member, batches.c.failed == literal_column("0"), batches.c.owes == false())
            .with_for_update()
            .cte("locked")
        )
        state: ColumnElement[int] = literal_column(str(int(MemberState.SUCCEEDED)))
        marked = (
            dialect.insert_new(members)
            .from_select(["batch", "position", "state"], select(locked.c.number, position, state))
            .returning(members.c.batch)
            .cte("marked")
        )
        changes = ending(batches, dialect.now, skips=False)
        counted = update(batches).where(batches.c.number == marked.c.batch).ordered_values(*changes.items())
        return counted.returning(*told(batches)).cte("counted")
