"""The broker's tables, under the prefix of one broker."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

SCHEMA_VERSION = 2

LONGEST_TASK_ID = 255

# SQLite numbers rows by itself for this very type alone.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_INNODB: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}
_PAYLOAD = sa.Text().with_variant(mysql.LONGTEXT(collation="utf8mb4_bin"), "mysql", "mariadb")


# Every row is dead soon; what is dead is in the way of whoever asks for the next.
_VACUUM_EARLY: Any = sa.DDL(  # type: ignore[no-untyped-call]
    "ALTER TABLE %(fullname)s SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000)"
).execute_if(dialect="postgresql")


class _MySQLName(sa.types.TypeDecorator[str]):
    """A name as MySQL tells it from others.

    Its usual collations find "a" when asked for "A", and this one takes "a "
    for "a": a blank at the end is kept with a mark behind it. All other names
    are kept as they are.
    """

    impl = mysql.VARCHAR
    cache_ok = True
    _mark = "\x01"

    def __init__(self, length: int) -> None:
        super().__init__(length, collation="utf8mb4_bin")

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """The name as it is kept."""
        return value + self._mark if value and value.endswith((" ", self._mark)) else value

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """The name as it was given."""
        return value.removesuffix(self._mark) if value else value


def _name(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(_MySQLName(length), "mysql", "mariadb")


class Tables:
    """The four tables of one broker.

    ``messages.visible_at`` is the one column that says when a message may be
    taken: at once, at its ETA, or when the lease of the worker that holds it
    runs out. ``ready_at`` remembers its place in the queue, for a message that
    is handed back. ``task_id`` is given for delayed messages alone, by which a
    revocation finds them.
    """

    def __init__(self, prefix: str) -> None:
        self.metadata = sa.MetaData()
        self.messages = sa.Table(
            f"{prefix}messages",
            self.metadata,
            sa.Column("id", _ID, primary_key=True),
            sa.Column("queue", _name(255), nullable=False),
            sa.Column("priority", sa.SmallInteger, nullable=False),
            sa.Column("visible_at", sa.Double, nullable=False),
            sa.Column("ready_at", sa.Double, nullable=False),
            sa.Column("acquired", sa.Integer, nullable=False),
            sa.Column("returned", sa.Integer, nullable=False),
            sa.Column("lease", _name(64)),
            sa.Column("payload", _PAYLOAD, nullable=False),
            sa.Column("task_id", _name(LONGEST_TASK_ID)),
            # An id is never given twice: a late acknowledgement must not hit another message.
            sqlite_autoincrement=True,
            **_INNODB,
        )
        sa.event.listen(self.messages, "after_create", _VACUUM_EARLY)
        columns = self.messages.c
        sa.Index(f"{prefix}messages_next", columns.queue, columns.priority, columns.visible_at, columns.id)
        has_task_id = columns.task_id.is_not(None)
        sa.Index(f"{prefix}messages_task_id", columns.task_id, postgresql_where=has_task_id, sqlite_where=has_task_id)
        self.queues = sa.Table(
            f"{prefix}queues",
            self.metadata,
            sa.Column("name", _name(255), primary_key=True),
            sa.Column("expires_after", sa.Double),
            sa.Column("expires_at", sa.Double, index=True),
            **_INNODB,
        )
        self.bindings = sa.Table(
            f"{prefix}bindings",
            self.metadata,
            sa.Column("exchange", _name(255), primary_key=True),
            sa.Column("routing_key", _name(255), primary_key=True),
            sa.Column("queue", _name(255), primary_key=True),
            sa.Column("pattern", _name(1024)),
            **_INNODB,
        )
        self.schema = sa.Table(
            f"{prefix}schema",
            self.metadata,
            sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
            **_INNODB,
        )
