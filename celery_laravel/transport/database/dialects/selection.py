"""Which messages come next: the question every dialect asks in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_laravel.transport.database.connection import Database
    from celery_laravel.transport.database.tables import Tables

PRIORITIES = range(9, -1, -1)


class Fetch(Protocol):
    """Take messages out of the queue, for a while or for good, in one atomic step."""

    def __call__(self, database: Database, values: Mapping[str, Any]) -> Sequence[sa.Row[Any]]:
        """Take messages, by the parameters of `Dialect.reserving`."""


def in_one_statement(statement: sa.Executable) -> Fetch:
    """A `Fetch` by a statement that changes rows and returns them."""

    def fetch(database: Database, values: Mapping[str, Any]) -> Sequence[sa.Row[Any]]:
        return database.run(lambda connection: connection.execute(statement, dict(values)).all())

    return fetch


def leased(tables: Tables, now: sa.ColumnElement[float]) -> dict[str, Any]:
    """What a reservation writes into a message's row."""
    return {
        "visible_at": now + sa.bindparam("lease_time", type_=sa.Double),
        "lease": sa.bindparam("lease_token"),
        "acquired": tables.messages.c.acquired + 1,
    }


def returned(tables: Tables) -> tuple[sa.Column[Any], ...]:
    """What a `Fetch` gives back of each message."""
    columns = tables.messages.c
    return columns.id, columns.priority, columns.ready_at, columns.acquired, columns.returned, columns.payload


def next_messages(
    tables: Tables, now: sa.ColumnElement[float], *, skip_locked: bool = False
) -> sa.CompoundSelect[tuple[int]]:
    """The ids of the next ``count`` messages of ``queue_name`` that are visible now.

    One arm for each priority, so that each is a seek in the index: in a single
    ``ORDER BY priority DESC, visible_at`` a hundred thousand delayed messages of
    one priority would be walked past to reach the next.
    """
    arms = (_first_of(tables, now, priority, skip_locked=skip_locked) for priority in PRIORITIES)
    return sa.union_all(*arms).limit(sa.bindparam("count", type_=sa.Integer))


def ready_of_priority(tables: Tables, now: sa.ColumnElement[float], priority: Any) -> sa.Select[tuple[int]]:
    """The ids of the first ``count`` messages of ``queue_name`` and one priority that are visible now."""
    columns = tables.messages.c
    return (
        sa.select(columns.id)
        .where(
            columns.queue == sa.bindparam("queue_name"),
            columns.priority == priority,
            columns.visible_at <= now,
        )
        .order_by(columns.visible_at, columns.id)
        .limit(sa.bindparam("count", type_=sa.Integer))
    )


def _first_of(
    tables: Tables, now: sa.ColumnElement[float], priority: int, *, skip_locked: bool
) -> sa.Select[tuple[int]]:
    arm = ready_of_priority(tables, now, sa.literal_column(str(priority)))
    if skip_locked:
        arm = arm.with_for_update(skip_locked=True)
    found = arm.subquery()
    return sa.select(found.c.id)


def next_due(tables: Tables, now: sa.ColumnElement[float]) -> sa.CompoundSelect[Any]:
    """In how many seconds the next hidden messages of ``queue_name`` become visible, for each priority."""
    columns = tables.messages.c
    return sa.union_all(
        *(
            sa.select(sa.func.min(columns.visible_at) - now).where(
                columns.queue == sa.bindparam("queue_name"),
                columns.priority == sa.literal_column(str(priority)),
                columns.visible_at > now,
            )
            for priority in PRIORITIES
        )
    )
