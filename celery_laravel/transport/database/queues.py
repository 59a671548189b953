"""What is known about queues: which exist, what is bound to them, which vanish when nobody uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection

    from celery_laravel.transport.database.connection import Database

# How long what is sent to a queue that has vanished is still thrown away.
REMEMBERED = 7 * 86_400.0
_GONE = 0.0
"""The ``expires_after`` of a queue that has vanished and is remembered."""

Binding = tuple[str, "str | None", str]
"""Routing key, pattern and queue, as kombu's exchange types want them."""


class Queues:
    """The queues and bindings of one broker, shared by all processes that use it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        tables = database.tables
        self._messages, self._queues, self._bindings = tables.messages, tables.queues, tables.bindings
        dialect = database.dialect
        lifetime = sa.bindparam("lifetime", type_=sa.Double)
        self._now = dialect.now
        self._declare = dialect.insert_or_update("queues", tables, ("expires_after", "expires_at")).values(
            name=sa.bindparam("queue_name"), expires_after=lifetime, expires_at=self._now + lifetime
        )
        self._renew = (
            self._queues.update()
            .where(self._queues.c.name == sa.bindparam("queue_name"), self._is_there())
            .values(expires_at=self._now + lifetime)
        )
        self._bury = (
            self._queues.update()
            .where(self._queues.c.name == sa.bindparam("queue_name"))
            .values(expires_after=_GONE, expires_at=self._now + REMEMBERED)
        )
        self._empty = self._messages.delete().where(self._messages.c.queue == sa.bindparam("queue_name"))
        self._bind = dialect.insert_or_update("bindings", tables, ("pattern",))
        columns = self._bindings.c
        self._bound_to = sa.select(columns.routing_key, columns.pattern, columns.queue).where(
            columns.exchange == sa.bindparam("exchange_name")
        )

    def declare(self, queue: str, *, expires_after: float | None = None) -> None:
        """Make a queue known; with ``expires_after`` it is removed when unused for so many seconds.

        Declaring it again counts as use.
        """
        values = {"queue_name": queue, "lifetime": expires_after}
        self._database.run(lambda connection: connection.execute(self._declare, values))

    def exists(self, queue: str) -> bool:
        """Whether a queue is declared."""
        query = sa.select(self._queues.c.name).where(self._queues.c.name == queue, self._is_there())
        return self._database.run(lambda connection: connection.execute(query).first() is not None)

    def bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        """Have an exchange deliver to a queue; the second time changes nothing."""
        row = {"exchange": exchange, "routing_key": routing_key, "pattern": pattern, "queue": queue}
        self._database.run(lambda connection: connection.execute(self._bind, row))

    def unbind(self, exchange: str, routing_key: str, queue: str) -> None:
        """Undo `bind`."""
        columns = self._bindings.c
        statement = self._bindings.delete().where(
            columns.exchange == exchange, columns.routing_key == routing_key, columns.queue == queue
        )
        self._database.run(lambda connection: connection.execute(statement))

    def bindings(self, exchange: str) -> list[Binding]:
        """What is bound to an exchange, by any process."""
        values = {"exchange_name": exchange}
        rows = self._database.run(lambda connection: connection.execute(self._bound_to, values).all())
        return [(row.routing_key, row.pattern, row.queue) for row in rows]

    def forget_exchange(self, exchange: str) -> None:
        """Remove an exchange's bindings."""
        statement = self._bindings.delete().where(self._bindings.c.exchange == exchange)
        self._database.run(lambda connection: connection.execute(statement))

    def delete(self, queue: str) -> None:
        """Remove a queue with its bindings and messages, those that workers hold included."""
        self._database.run(lambda connection: self._remove(connection, [queue]), as_one=True)

    def renew(self, queues: Mapping[str, float]) -> list[str]:
        """Keep queues that expire from expiring, and say which of them were gone already."""

        def work(connection: Connection) -> list[str]:
            return [
                queue
                for queue, lifetime in sorted(queues.items())
                if not connection.execute(self._renew, {"queue_name": queue, "lifetime": lifetime}).rowcount
            ]

        return self._database.run(work, as_one=True)

    def sweep(self) -> list[str]:
        """Remove the queues whose time has run out, and say which they were.

        Of a queue that is renewed at the same moment either the renewal is
        seen, or whoever renews it learns that it is gone.

        A client's queue of results is bound to no exchange and known by its
        name to whoever is to answer. It is remembered for a while, and what is
        sent to it meanwhile removed: nobody else ever would.
        """
        columns = self._queues.c
        is_over = columns.expires_at <= self._now
        wanted = sa.select(columns.name, is_over.label("is_over"), (columns.expires_after == _GONE).label("is_gone"))
        wanted = wanted.where(sa.or_(is_over, columns.expires_after == _GONE))
        if self._database.run(lambda connection: connection.execute(wanted.limit(1)).first()) is None:
            return []

        def work(connection: Connection) -> list[str]:
            locked = wanted.order_by(columns.name).with_for_update(skip_locked=True)
            swept = []
            for name, is_over, is_gone in connection.execute(locked).all():
                if is_gone and not is_over:
                    connection.execute(self._empty, {"queue_name": name})
                elif is_gone or self._is_bound(connection, name):
                    self._remove(connection, [name])
                else:
                    connection.execute(self._empty, {"queue_name": name})
                    connection.execute(self._bury, {"queue_name": name})
                if not is_gone:
                    swept.append(name)
            return swept

        return self._database.run(work, as_one=True)

    def _is_there(self) -> sa.ColumnElement[bool]:
        columns = self._queues.c
        return sa.or_(columns.expires_after.is_(None), columns.expires_after != _GONE)

    def _is_bound(self, connection: Connection, queue: str) -> bool:
        columns = self._bindings.c
        query = sa.select(columns.queue).where(columns.queue == queue, columns.exchange != "").limit(1)
        return connection.execute(query).first() is not None

    def _remove(self, connection: Connection, queues: Iterable[str]) -> None:
        for queue in queues:
            connection.execute(self._empty, {"queue_name": queue})
            connection.execute(self._bindings.delete().where(self._bindings.c.queue == queue))
            connection.execute(self._queues.delete().where(self._queues.c.name == queue))
