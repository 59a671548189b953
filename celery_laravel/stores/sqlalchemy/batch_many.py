"""Many members of a batch at a time, in an SQL database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from celery_laravel.stores.sqlalchemy.batch_rows import sliced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row

    from celery_laravel.stores.records import MemberState
    from celery_laravel.stores.sqlalchemy.engine import Database


class ManyMembers:
    """Puts down, and finds, the states of members within a transaction."""

    def __init__(self, database: Database) -> None:
        self._dialect = database.dialect
        self._batches = database.tables.batches
        self._members = database.tables.members

    def put_down(self, connection: Connection, row: Row[Any], indices: Sequence[int], state: MemberState) -> int:
        """Put down the state of those of a locked batch's members that are pending; return how many there were."""
        changed = 0
        for part in sliced({index for index in indices if 0 <= index < row.total}):
            values = [{"batch": row.number, "position": i, "state": int(state)} for i in part]
            insertion = self._dialect.insert_new(self._members).values(values)
            changed += self._dialect.counted(insertion)(connection, {})
        return changed

    def ended(self, connection: Connection, batch_id: str, indices: Sequence[int]) -> frozenset[int]:
        """Which of these members have ended."""
        members, batches = self._members.c, self._batches.c
        mine = select(members.position).join(self._batches, batches.number == members.batch)
        mine = mine.where(batches.id == batch_id)
        found: set[int] = set()
        for part in sliced(indices):
            found.update(connection.scalars(mine.where(members.position.in_(part))))
        return frozenset(found)
