"""Batches are removed: each as a whole, very many of them a slice at a time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, select

from celery_laravel.stores.instants import as_microseconds
from celery_laravel.stores.sqlalchemy.batch_rows import SLICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Select

    from celery_laravel.stores.sqlalchemy.engine import Database


class BatchRemoval:
    """Removes batches with all about their members.

    ``also`` removes what else belongs to the batch of a number, in the same transaction.
    """

    def __init__(self, database: Database, also: Callable[[Connection, int], object]) -> None:
        self._database = database
        self._batches = database.tables.batches
        self._of_members = (database.tables.members, database.tables.failures)
        self._also = also

    def one(self, batch_id: str) -> bool:
        """Remove the batch of that id; False when there is none."""
        return self._database.transaction(lambda connection: self.within(connection, self._batches.c.id == batch_id))

    def within(self, connection: Connection, same: ColumnElement[bool]) -> bool:
        """Remove the one batch that this is true of, as part of a transaction; False when there is none."""
        number = connection.scalar(select(self._batches.c.number).where(same).with_for_update())
        if number is None:
            return False
        connection.execute(delete(self._batches).where(self._batches.c.number == number))
        for table in self._of_members:
            connection.execute(delete(table).where(table.c.batch == number))
        self._also(connection, number)
        return True

    def prune(
        self, finished_before: datetime | None, created_before: datetime | None, cancelled_before: datetime | None
    ) -> int:
        """`BatchStore.prune`: each batch is removed in a transaction of its own."""
        return sum(map(self._prune, self._ages(finished_before, created_before, cancelled_before)))

    def _ages(
        self, finished_before: datetime | None, created_before: datetime | None, cancelled_before: datetime | None
    ) -> Iterator[ColumnElement[bool]]:
        batch = self._batches.c
        if finished_before is not None:
            yield batch.finished_at < as_microseconds(finished_before)
        if created_before is not None:
            yield and_(batch.finished_at.is_(None), batch.created_at < as_microseconds(created_before))
        if cancelled_before is not None:
            yield and_(batch.cancelled_at.is_not(None), batch.created_at < as_microseconds(cancelled_before))

    def _prune(self, is_old: ColumnElement[bool]) -> int:
        batch = self._batches.c
        removed, last = 0, -1
        old = select(batch.number).where(is_old).order_by(batch.number).limit(SLICE)
        while numbers := self._database.single(partial(_scalars, statement=old.where(batch.number > last))):
            for number in numbers:
                # By age again, since it may have been revived meanwhile.
                remove = partial(self.within, same=and_(batch.number == number, is_old))
                removed += self._database.transaction(remove)
            last = numbers[-1]
        return removed


def _scalars(connection: Connection, statement: Select[Any]) -> Sequence[Any]:
    return connection.scalars(statement).all()
