"""The broker's tables, under the prefix of one broker."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = 1


class Tables:
    """The four tables of one broker.

    ``messages.visible_at`` is the one column that says when a message may be
    taken: at once, at its ETA, or when the lease of the worker that holds it
    runs out. ``ready_at`` remembers its place in the queue, for a message that
    is handed back.
    """

    def __init__(self, prefix: str) -> None:
        self.metadata = sa.MetaData()
        self.messages = sa.Table(
            f"{prefix}messages",
            self.metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("queue", sa.String(255), nullable=False),
            sa.Column("priority", sa.SmallInteger, nullable=False),
            sa.Column("visible_at", sa.Double, nullable=False),
            sa.Column("ready_at", sa.Double, nullable=False),
            sa.Column("acquired", sa.Integer, nullable=False),
            sa.Column("returned", sa.Integer, nullable=False),
            sa.Column("lease", sa.String(64)),
            sa.Column("payload", sa.Text, nullable=False),
            # An id is never given twice: a late acknowledgement must not hit another message.
            sqlite_autoincrement=True,
        )
        columns = self.messages.c
        sa.Index(f"{prefix}messages_next", columns.queue, columns.priority, columns.visible_at, columns.id)
        self.queues = sa.Table(
            f"{prefix}queues",
            self.metadata,
            sa.Column("name", sa.String(255), primary_key=True),
            sa.Column("expires_after", sa.Double),
            sa.Column("expires_at", sa.Double, index=True),
        )
        self.bindings = sa.Table(
            f"{prefix}bindings",
            self.metadata,
            sa.Column("exchange", sa.String(255), primary_key=True),
            sa.Column("routing_key", sa.String(255), primary_key=True),
            sa.Column("queue", sa.String(255), primary_key=True),
            sa.Column("pattern", sa.String(1024)),
        )
        self.schema = sa.Table(f"{prefix}schema", self.metadata, sa.Column("version", sa.Integer, primary_key=True))
