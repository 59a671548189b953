"""Due callbacks that have rows of their own: each of them may be due many times at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, insert, or_, select

from celery_laravel.stores.records import Callback, MemberState
from celery_laravel.stores.sqlalchemy.batch_changes import KINDS, told
from celery_laravel.stores.sqlalchemy.batch_rows import SLICE, sliced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Row

    from celery_laravel.stores.records import Mark, MemberEnd
    from celery_laravel.stores.sqlalchemy.engine import Database

_NONE = -1
"""Stands for no occasion: a column of a primary key cannot be NULL."""


def owes(callbacks: Iterable[str]) -> bool:
    """Whether a batch with callbacks of these kinds owes anything beside those that its own row tells of."""
    return any(kind not in KINDS for kind in callbacks)


class OwedCallbacks:
    """Puts down what becomes due within the transaction that brings it about, and finds it again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._owed = database.tables.owed
        self._batches = database.tables.batches

    def created(self, connection: Connection, row: Row[Any]) -> None:
        """Put down what is due as soon as a batch is there."""
        self._put(connection, row, _callbacks(row, "before"))

    def ended(self, connection: Connection, row: Row[Any], end: MemberEnd) -> tuple[Callback, ...]:
        """Put down what the end of a member that left the batch's row like this made due, and return it."""
        due: list[Callback] = []
        if end.state is MemberState.SUCCEEDED:
            due += _callbacks(row, "progress", end.index)
        elif end.state is MemberState.FAILED and row.allows_failures:
            due += _callbacks(row, "failure", row.times_failed, end.exception)
        return self._put(connection, row, due)

    def finished(self, connection: Connection, row: Row[Any]) -> tuple[Callback, ...]:
        """Put down what is due if the step that left the batch's row like this finished it, and return it."""
        if row.is_open or row.pending:
            return ()
        is_broken = row.times_failed and not row.allows_failures
        all_succeeded = row.failed == 0 and row.skipped == 0
        is_first = all_succeeded and row.times_succeeded == 1 if is_broken else row.times_finished == 1
        return self._put(connection, row, _callbacks(row, "next")) if is_first else ()

    def sent(self, connection: Connection, batch_id: str, marks: Sequence[Mark]) -> None:
        """Forget callbacks that have been sent."""
        owed = self._owed.c
        mine = select(self._batches.c.number).where(self._batches.c.id == batch_id).scalar_subquery()
        for part in sliced(marks):
            same = [
                and_(owed.kind == mark.kind, owed.position == mark.position, owed.occasion == _number(mark.occasion))
                for mark in part
            ]
            connection.execute(delete(self._owed).where(owed.batch == mine, or_(*same)))

    def waiting(self, connection: Connection, latest: ColumnElement[int]) -> list[Row[Any]]:
        """The rows of batches, with those of callbacks that have been due since an instant or before; see `called`."""
        owed = self._owed.c
        columns: list[ColumnElement[Any]] = [*told(self._batches), owed.kind, owed.position, owed.occasion]
        found = (
            select(*columns, owed.due.label("since"), owed.exception)
            .join(self._owed, owed.batch == self._batches.c.number)
            .where(owed.due <= latest)
            .order_by(owed.due)
            .limit(SLICE)
        )
        return list(connection.execute(found))

    def remove(self, connection: Connection, number: int) -> None:
        """Forget everything of a batch that is removed."""
        connection.execute(delete(self._owed).where(self._owed.c.batch == number))

    def _put(self, connection: Connection, row: Row[Any], due: Iterable[Callback]) -> tuple[Callback, ...]:
        callbacks = tuple(due)
        for callback in callbacks:
            values = {
                "batch": row.number,
                "kind": callback.kind,
                "position": callback.position,
                "occasion": _number(callback.occasion),
                "due": self._database.dialect.now,
                "exception": None if callback.exception is None else dict(callback.exception),
            }
            connection.execute(insert(self._owed).values(values))
        return callbacks


def _callbacks(row: Row[Any], kind: str, occasion: int | None = None, exception: Any = None) -> Iterator[Callback]:
    for position, signature in enumerate(row.callbacks.get(kind, ())):
        yield Callback(kind, position, signature, occasion, exception)


def called(row: Row[Any]) -> Callback:
    """The callback of one of the rows of `OwedCallbacks.waiting`."""
    occasion = None if row.occasion == _NONE else row.occasion
    return Callback(row.kind, row.position, row.callbacks[row.kind][row.position], occasion, row.exception)


def _number(occasion: int | None) -> int:
    return _NONE if occasion is None else occasion
