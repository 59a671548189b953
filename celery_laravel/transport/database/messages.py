"""What is done to messages: published, reserved, acknowledged, handed back, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import sqlalchemy as sa

from celery_laravel.transport.database.dialects.selection import next_due

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Executable, Row

    from celery_laravel.transport.database.connection import Database


class NewMessage(TypedDict):
    """A message on its way into the table; the names are those of the columns."""

    queue: str
    priority: int
    visible_at: float
    ready_at: float
    acquired: int
    returned: int
    lease: str | None
    payload: str


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
        self._insert = messages.insert()
        self._reserve = database.dialect.reserve(tables)
        self._take = database.dialect.take(tables)
        self._next_due = next_due(tables)
        this_row = messages.c.id == sa.bindparam("row_id")
        this_lease = sa.and_(this_row, messages.c.lease == sa.bindparam("lease_token"))
        self._delete = messages.delete().where(this_row)
        self._renew = messages.update().where(this_lease).values(visible_at=sa.bindparam("until"))
        self._hand_back = (
            messages.update()
            .where(this_lease)
            .values(visible_at=messages.c.ready_at, lease=None, returned=messages.c.returned + sa.bindparam("unused"))
        )

    def publish(self, messages: Sequence[NewMessage]) -> None:
        """Store messages, all or none; they are safe from a killed process when this returns."""
        if len(messages) == 1:
            with self._database.session() as connection:
                connection.execute(self._insert, dict(messages[0]))
        elif messages:
            with self._database.transaction() as connection:
                connection.execute(self._insert, [dict(message) for message in messages])
        self._database.announce()

    def reserve(self, queue: str, count: int, *, lease: str, now: float) -> list[Reserved]:
        """Lease up to ``count`` messages of a queue, the next first.

        One atomic step: of several workers asking at once, each message goes
        to one. Unless its lease is renewed, a message comes back by itself
        after the visibility timeout.
        """
        until = now + self.visibility_timeout
        rows = self._fetch(self._reserve, queue, count, now, {"until": until, "lease_token": lease})
        return [Reserved(row.id, queue, lease, row.acquired, row.returned, row.payload) for row in rows]

    def take(self, queue: str, count: int, *, now: float) -> list[Reserved]:
        """Remove up to ``count`` messages of a queue and return them; a crash from here on loses them."""
        rows = self._fetch(self._take, queue, count, now, {})
        return [Reserved(row.id, queue, "", row.acquired + 1, row.returned, row.payload) for row in rows]

    def _fetch(self, statement: Executable, queue: str, count: int, now: float, more: dict[str, Any]) -> list[Row[Any]]:
        values = {"queue_name": queue, "count": count, "now": now, **more}
        with self._database.session() as connection:
            rows = connection.execute(statement, values).all()
        # RETURNING promises no order.
        return sorted(rows, key=lambda row: (-row.priority, row.ready_at, row.id))

    def acknowledge(self, message_id: int) -> None:
        """Remove a message, whoever holds it now: its work is done. The second time changes nothing."""
        with self._database.session() as connection:
            connection.execute(self._delete, {"row_id": message_id})

    def hand_back(self, leases: Iterable[tuple[int, str]], *, unused: bool) -> None:
        """Put messages back where they stood in their queues, visible at once.

        A message whose lease has passed to another worker stays with that one.
        With ``unused`` the delivery does not count: the message was never worked on.
        """
        rows = [{"row_id": row, "lease_token": lease, "unused": int(unused)} for row, lease in leases]
        if rows:
            with self._database.transaction() as connection:
                connection.execute(self._hand_back, rows)
            self._database.announce()

    def renew(self, leases: Iterable[tuple[int, str]], *, until: float) -> None:
        """Keep messages hidden until ``until``, those whose lease is still ours."""
        rows = [{"row_id": row, "lease_token": lease, "until": until} for row, lease in leases]
        if rows:
            with self._database.transaction() as connection:
                connection.execute(self._renew, rows)

    def set_aside(self, message_id: int, queue: str) -> None:
        """Move a message that cannot be read to another queue, where it is out of the way and still at hand."""
        messages = self._messages
        with self._database.session() as connection:
            connection.execute(
                messages.update()
                .where(messages.c.id == message_id)
                .values(queue=queue, lease=None, visible_at=messages.c.ready_at)
            )

    def next_due(self, queues: Iterable[str], *, now: float) -> float | None:
        """When the next message that is hidden now will show, by itself, or None."""
        with self._database.session() as connection:
            rows = [
                row for queue in queues for row in connection.execute(self._next_due, {"queue_name": queue, "now": now})
            ]
        return min((float(due) for (due,) in rows if due is not None), default=None)

    def count_ready(self, queue: str, *, now: float) -> int:
        """How many messages could be reserved now: neither delayed nor held by a worker."""
        columns = self._messages.c
        query = sa.select(sa.func.count()).where(columns.queue == queue, columns.visible_at <= now)
        with self._database.session() as connection:
            return int(connection.execute(query).scalar_one())

    def purge(self, queue: str, *, now: float) -> int:
        """Remove the messages no worker holds, delayed ones too, and say how many they were."""
        columns = self._messages.c
        free = sa.or_(columns.lease.is_(None), columns.visible_at <= now)
        with self._database.session() as connection:
            return int(connection.execute(self._messages.delete().where(columns.queue == queue, free)).rowcount)
