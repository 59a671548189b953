"""What is done to messages: published, reserved, acknowledged, handed back, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import sqlalchemy as sa

from celery_laravel.transport.database.dialects.selection import next_due
from celery_laravel.transport.database.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Connection, Executable, Row

    from celery_laravel.transport.database.connection import Database
    from celery_laravel.transport.database.dialects.selection import Fetch


# How many ids go into one statement.
MOST_IDS = 100


class NewMessage(TypedDict):
    """A message on its way into the table.

    ``due`` is when it is to become visible, in seconds since the epoch; a
    moment that has passed means at once. ``task_id`` is given for one that is delayed.
    """

    queue: str
    priority: int
    due: float
    payload: str
    task_id: str | None


class Reserved(NamedTuple):
    """A message taken from the table, and the lease it is held by.

    Attributes:
        id: The message's row.
        lease: The token of this one reservation; empty if the message was removed with it.
        acquired: How often it has been reserved, this time included.
        returned: How often it was handed back without having been worked on.
    """

    id: int
    queue: str
    lease: str
    acquired: int
    returned: int
    payload: str

    @property
    def tag(self) -> str:
        """The delivery tag of this one reservation."""
        return make_tag(self.id, self.lease)


def make_tag(message_id: int, lease: str) -> str:
    """The delivery tag of one reservation of one message."""
    return f"{message_id}.{lease}"


def read_tag(tag: str) -> tuple[int, str]:
    """The message's row and lease; the reverse of `make_tag`."""
    message_id, _, lease = tag.partition(".")
    return int(message_id), lease


class Messages:
    """The messages of one broker."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.visibility_timeout = database.options.visibility_timeout
        tables = database.tables
        messages = self._messages = tables.messages
        self._now = now = database.dialect.now
        self._reserve = database.dialect.reserving(tables)
        self._take = database.dialect.taking(tables)
        self._next_due = next_due(tables, now)
        due = sa.bindparam("due", type_=sa.Double)
        self._insert_many = messages.insert().values(acquired=0, returned=0)
        self._insert_one = self._insert_many.values(
            visible_at=sa.case((due > now, due), else_=now), ready_at=sa.case((due > now, due), else_=now)
        )
        this_row = messages.c.id == sa.bindparam("row_id")
        this_lease = sa.and_(this_row, messages.c.lease == sa.bindparam("lease_token"))
        self._delete = messages.delete().where(messages.c.id.in_(sa.bindparam("row_ids", expanding=True)))
        lease_time = sa.bindparam("lease_time", type_=sa.Double)
        self._renew = messages.update().where(this_lease).values(visible_at=now + lease_time)
        self._hand_back = (
            messages.update()
            .where(this_lease)
            .values(visible_at=messages.c.ready_at, lease=None, returned=messages.c.returned + sa.bindparam("unused"))
        )
        self._undo = (
            messages.update()
            .where(messages.c.queue == sa.bindparam("queue_name"), messages.c.lease == sa.bindparam("lease_token"))
            .values(visible_at=messages.c.ready_at, lease=None, returned=messages.c.returned + 1)
        )

    def publish(self, messages: Sequence[NewMessage]) -> None:
        """Store messages, all or none; they are safe from a killed process when this returns."""
        if not messages:
            return
        if len(messages) == 1:
            row = dict(messages[0])
            self._database.run(lambda connection: connection.execute(self._insert_one, row))
        else:
            self._database.run(lambda connection: self._publish_many(connection, messages), as_one=True)
        queues = {message["queue"] for message in messages}
        self._database.news.announce(queues, delayed=any(message["due"] for message in messages))

    def _publish_many(self, connection: Connection, messages: Sequence[NewMessage]) -> None:
        # Plain values, which drivers send many at a time.
        now = connection.execute(sa.select(self._now)).scalar_one()
        rows = []
        for message in messages:
            row: dict[str, Any] = dict(message)
            row["visible_at"] = row["ready_at"] = max(now, row.pop("due"))
            rows.append(row)
        connection.execute(self._insert_many, rows)

    def reserve(self, queue: str, count: int, *, lease: str) -> list[Reserved]:
        """Lease up to ``count`` messages of a queue, the next first.

        One atomic step: of several workers asking at once, each message goes
        to one. Unless its lease is renewed, a message comes back by itself
        after the visibility timeout.

        When the connection is lost under way, nobody knows whether messages
        were leased. They are given back as soon as this process connects again.
        """
        values = {"lease_token": lease, "lease_time": self.visibility_timeout}
        try:
            rows = self._fetch(self._reserve, queue, count, values)
        except BrokerUnavailableError as error:
            if error.may_be_done:
                doubtful = {"queue_name": queue, "lease_token": lease}
                self._database.when_connected(self._later(self._undo, doubtful))
            raise
        return [Reserved(row.id, queue, lease, row.acquired, row.returned, row.payload) for row in rows]

    def take(self, queue: str, count: int) -> list[Reserved]:
        """Remove up to ``count`` messages of a queue and return them; a crash from here on loses them."""
        rows = self._fetch(self._take, queue, count, {})
        return [Reserved(row.id, queue, "", row.acquired + 1, row.returned, row.payload) for row in rows]

    def _fetch(self, fetch: Fetch, queue: str, count: int, more: dict[str, Any]) -> list[Row[Any]]:
        rows = fetch(self._database, {"queue_name": queue, "count": count, **more})
        # RETURNING promises no order.
        return sorted(rows, key=lambda row: (-row.priority, row.ready_at, row.id))

    def acknowledge(self, *message_ids: int) -> None:
        """Remove messages, whoever holds them now: their work is done. The second time changes nothing."""
        for start in range(0, len(message_ids), MOST_IDS):
            rows = {"row_ids": sorted(message_ids[start : start + MOST_IDS])}
            self._database.run(self._later(self._delete, rows))

    def acknowledge_later(self, message_ids: Iterable[int]) -> None:
        """Remove messages as soon as this process connects again."""
        for message_id in message_ids:
            self._database.when_connected(self._later(self._delete, {"row_ids": [message_id]}))

    def _later(self, statement: Executable, values: dict[str, Any]) -> Callable[[Connection], object]:
        return lambda connection: connection.execute(statement, values)

    def hand_back(self, leases: Iterable[tuple[int, str]], *, unused: bool) -> None:
        """Put messages back where they stood in their queues, visible at once.

        A message whose lease has passed to another worker stays with that one.
        With ``unused`` the delivery does not count: the message was never worked on.
        """
        # In the order of their ids: two transactions that want the same rows then wait for each other in turn.
        rows = [{"row_id": row, "lease_token": lease, "unused": int(unused)} for row, lease in sorted(leases)]
        if not rows:
            return
        columns = self._messages.c
        concerned = sa.select(columns.queue).where(columns.id.in_([row["row_id"] for row in rows])).distinct()

        def work(connection: Connection) -> set[str]:
            connection.execute(self._hand_back, rows)
            return set(connection.execute(concerned).scalars()) if self._database.dialect.has_notices else set()

        self._database.news.announce(self._database.run(work, as_one=True))

    def hand_back_later(self, leases: Iterable[tuple[int, str]]) -> None:
        """Put messages back, unused, as soon as this process connects again."""
        for row, lease in leases:
            values = {"row_id": row, "lease_token": lease, "unused": 1}
            self._database.when_connected(self._later(self._hand_back, values))

    def renew(self, leases: Iterable[tuple[int, str]]) -> None:
        """Keep messages hidden for the visibility timeout from now on, those whose lease is still ours."""
        timeout = self.visibility_timeout
        rows = [{"row_id": row, "lease_token": lease, "lease_time": timeout} for row, lease in sorted(leases)]
        if rows:
            self._database.run(lambda connection: connection.execute(self._renew, rows), as_one=True)

    def set_aside(self, message_id: int, queue: str) -> None:
        """Move a message that cannot be read to another queue, where it is out of the way and still at hand."""
        messages = self._messages
        statement = (
            messages.update()
            .where(messages.c.id == message_id)
            .values(queue=queue, lease=None, visible_at=messages.c.ready_at)
        )
        self._database.run(lambda connection: connection.execute(statement))

    def next_due(self, queues: Iterable[str]) -> float | None:
        """In how many seconds the next message that is hidden now will show, by itself, or None."""

        def ask(connection: Connection) -> list[float]:
            return [
                float(seconds)
                for queue in queues
                for (seconds,) in connection.execute(self._next_due, {"queue_name": queue})
                if seconds is not None
            ]

        return min(self._database.run(ask), default=None)

    def count_ready(self, queue: str) -> int:
        """How many messages could be reserved now: neither delayed nor held by a worker."""
        columns = self._messages.c
        query = sa.select(sa.func.count()).where(columns.queue == queue, columns.visible_at <= self._now)
        return int(self._database.run(lambda connection: connection.execute(query).scalar_one()))

    def count_hidden(self, queue: str) -> int:
        """How many messages cannot be reserved now: they are delayed, or held by a worker, a dead one maybe."""
        columns = self._messages.c
        query = sa.select(sa.func.count()).where(columns.queue == queue, columns.visible_at > self._now)
        return int(self._database.run(lambda connection: connection.execute(query).scalar_one()))

    def purge(self, queue: str) -> int:
        """Remove the messages no worker holds, delayed ones too, and say how many they were."""
        columns = self._messages.c
        free = sa.or_(columns.lease.is_(None), columns.visible_at <= self._now)
        statement = self._messages.delete().where(columns.queue == queue, free)
        return int(self._database.run(lambda connection: connection.execute(statement).rowcount))
