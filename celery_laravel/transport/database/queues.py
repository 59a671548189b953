"""What is known about queues: which exist, what is bound to them, which vanish when nobody uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from celery_laravel import clock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection

    from celery_laravel.transport.database.connection import Database

Binding = tuple[str, "str | None", str]
"""Routing key, pattern and queue, as kombu's exchange types want them."""


class Queues:
    """The queues and bindings of one broker, shared by all processes that use it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        tables = database.tables
        self._messages, self._queues, self._bindings = tables.messages, tables.queues, tables.bindings
        dialect = database.dialect
        self._declare = dialect.insert_or_update("queues", tables, ("expires_after", "expires_at"))
        self._bind = dialect.insert_or_update("bindings", tables, ("pattern",))
        columns = self._bindings.c
        self._bound_to = sa.select(columns.routing_key, columns.pattern, columns.queue).where(
            columns.exchange == sa.bindparam("exchange_name")
        )

    def declare(self, queue: str, *, expires_after: float | None = None) -> None:
        """Make a queue known; with ``expires_after`` it is removed when unused for so many seconds.

        Declaring it again counts as use.
        """
        expires_at = None if expires_after is None else clock.now() + expires_after
        with self._database.session() as connection:
            connection.execute(self._declare, {"name": queue, "expires_after": expires_after, "expires_at": expires_at})

    def exists(self, queue: str) -> bool:
        """Whether a queue is declared."""
        query = sa.select(self._queues.c.name).where(self._queues.c.name == queue)
        with self._database.session() as connection:
            return connection.execute(query).first() is not None

    def bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        """Have an exchange deliver to a queue; the second time changes nothing."""
        row = {"exchange": exchange, "routing_key": routing_key, "pattern": pattern, "queue": queue}
        with self._database.session() as connection:
            connection.execute(self._bind, row)

    def unbind(self, exchange: str, routing_key: str, queue: str) -> None:
        """Undo `bind`."""
        columns = self._bindings.c
        with self._database.session() as connection:
            connection.execute(
                self._bindings.delete().where(
                    columns.exchange == exchange, columns.routing_key == routing_key, columns.queue == queue
                )
            )

    def bindings(self, exchange: str) -> list[Binding]:
        """What is bound to an exchange, by any process."""
        with self._database.session() as connection:
            rows = connection.execute(self._bound_to, {"exchange_name": exchange}).all()
        return [(row.routing_key, row.pattern, row.queue) for row in rows]

    def forget_exchange(self, exchange: str) -> None:
        """Remove an exchange's bindings."""
        with self._database.session() as connection:
            connection.execute(self._bindings.delete().where(self._bindings.c.exchange == exchange))

    def delete(self, queue: str) -> None:
        """Remove a queue with its bindings and messages, those that workers hold included."""
        with self._database.transaction() as connection:
            self._remove(connection, [queue])

    def renew(self, queues: Mapping[str, float]) -> list[str]:
        """Keep queues that expire from expiring, and say which of them were gone already."""
        columns, now = self._queues.c, clock.now()
        statement = (
            self._queues.update()
            .where(columns.name == sa.bindparam("queue_name"))
            .values(expires_at=sa.bindparam("at"))
        )
        gone = []
        with self._database.transaction() as connection:
            for queue, expires_after in queues.items():
                result = connection.execute(statement, {"queue_name": queue, "at": now + expires_after})
                if not result.rowcount:
                    gone.append(queue)
        return gone

    def sweep(self) -> list[str]:
        """Remove the queues whose time has run out, and say which they were."""
        columns, now = self._queues.c, clock.now()
        expired = sa.select(columns.name).where(columns.expires_at <= now)
        with self._database.session() as connection:
            if connection.execute(expired.limit(1)).first() is None:
                return []
        with self._database.transaction() as connection:
            names = list(connection.execute(expired).scalars())
            self._remove(connection, names)
        return names

    def _remove(self, connection: Connection, queues: Iterable[str]) -> None:
        for queue in queues:
            connection.execute(self._messages.delete().where(self._messages.c.queue == queue))
            connection.execute(self._bindings.delete().where(self._bindings.c.queue == queue))
            connection.execute(self._queues.delete().where(self._queues.c.name == queue))
