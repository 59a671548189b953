"""Delayed messages, as they are looked at and changed where they wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement, Connection

    from celery_laravel.transport.database.connection import Database


class Delayed(NamedTuple):
    """A delayed message. ``due`` is in seconds since the epoch; ``payload`` is kombu's text of it."""

    queue: str
    due: float
    payload: str


class DelayedMessages:
    """The delayed messages of one broker that no worker holds, those too that are due by now.

    They are told from others by the id of their job, which the table keeps of
    nobody else. One without an id, or with one that the column cannot keep, is
    not among them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._messages = database.tables.messages
        self._now = database.dialect.now

    def all(self, *, queue: str | None = None, task_id: str | None = None, limit: int | None = None) -> list[Delayed]:
        """The messages, the first due first; of one queue, or of one job."""
        columns = self._messages.c
        wanted = sa.select(columns.queue, columns.ready_at, columns.payload).where(*self._those(queue, task_id))
        ordered = wanted.order_by(columns.ready_at, columns.id).limit(limit)
        rows = self._database.run(lambda connection: connection.execute(ordered).all())
        return [Delayed(row.queue, float(row.ready_at), row.payload) for row in rows]

    def count(self, *, queue: str | None = None) -> int:
        """How many messages there are, in all or of one queue."""
        query = sa.select(sa.func.count()).select_from(self._messages).where(*self._those(queue, None))
        return int(self._database.run(lambda connection: connection.execute(query).scalar_one()))

    def change(self, task_id: str, change: Callable[[str], str]) -> int:
        """Change the texts of a job's messages, have them ready at once, and say how many there were.

        One transaction: a worker that asks meanwhile gets a message as it was,
        in which case it is not counted, or as it is then. What ``change``
        raises leaves all of them as they were.
        """
        columns = self._messages.c
        wanted = sa.select(columns.id, columns.queue, columns.payload).where(*self._those(None, task_id))
        if not self._database.run(lambda connection: connection.execute(wanted).all()):
            return 0  # without a lock that publishers might wait for
        locked = wanted.order_by(columns.id).with_for_update(skip_locked=True)

        def work(connection: Connection) -> list[str]:
            rows = connection.execute(locked).all()
            for row in rows:
                texts = {"payload": change(row.payload), "lease": None}
                at_once = {"visible_at": self._now, "ready_at": self._now}
                connection.execute(self._messages.update().where(columns.id == row.id).values(**texts, **at_once))
            return [str(row.queue) for row in rows]

        queues = self._database.run(work, as_one=True)
        self._database.news.announce(set(queues))
        return len(queues)

    def _those(self, queue: str | None, task_id: str | None) -> list[ColumnElement[bool]]:
        columns = self._messages.c
        free = sa.or_(columns.lease.is_(None), columns.visible_at <= self._now)
        one_job = columns.task_id.is_not(None) if task_id is None else columns.task_id == task_id
        return [one_job, free] if queue is None else [one_job, free, columns.queue == queue]
