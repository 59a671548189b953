"""Which messages come next: the question every dialect asks in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from celery_laravel.transport.database.tables import Tables

PRIORITIES = range(9, -1, -1)


def next_messages(tables: Tables) -> sa.CompoundSelect[tuple[int]]:
    """The ids of the next ``count`` messages of ``queue_name`` that are visible at ``now``.

    One arm for each priority, so that each is a seek in the index: in a single
    ``ORDER BY priority DESC, visible_at`` a hundred thousand delayed messages of
    one priority would be walked past to reach the next.
    """
    return sa.union_all(*(_first_of(tables, priority) for priority in PRIORITIES)).limit(sa.bindparam("count"))


def _first_of(tables: Tables, priority: int) -> sa.Select[tuple[int]]:
    columns = tables.messages.c
    arm = (
        sa.select(columns.id)
        .where(
            columns.queue == sa.bindparam("queue_name"),
            columns.priority == sa.literal_column(str(priority)),
            columns.visible_at <= sa.bindparam("now"),
        )
        .order_by(columns.visible_at, columns.id)
        .limit(sa.bindparam("count"))
        .subquery()
    )
    return sa.select(arm.c.id)


def next_due(tables: Tables) -> sa.CompoundSelect[Any]:
    """When the next hidden messages of ``queue_name`` become visible after ``now``, for each priority."""
    columns = tables.messages.c
    return sa.union_all(
        *(
            sa.select(sa.func.min(columns.visible_at)).where(
                columns.queue == sa.bindparam("queue_name"),
                columns.priority == sa.literal_column(str(priority)),
                columns.visible_at > sa.bindparam("now"),
            )
            for priority in PRIORITIES
        )
    )
