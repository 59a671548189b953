"""Locks, limits and debounced jobs.

As in the first version, what is there already is left alone.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, Table, UniqueConstraint

from celery_laravel.stores.sqlalchemy.columns import Characters, Json, Key, Microseconds, Number

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade(prefix: str) -> None:
    """Make the tables."""
    for table in _tables(prefix):
        table.create(op.get_bind(), checkfirst=True)
        for index in table.indexes:
            index.create(op.get_bind(), checkfirst=True)


def downgrade(prefix: str) -> None:
    """Remove the tables, and all that is in them."""
    for table in reversed(_tables(prefix)):
        table.drop(op.get_bind(), checkfirst=True)


def _tables(prefix: str) -> list[Table]:
    metadata = MetaData()
    return [
        _locks(metadata, prefix),
        _limits(metadata, prefix),
        _limit_windows(metadata, prefix),
        _limit_starts(metadata, prefix),
        _debounces(metadata, prefix),
    ]


def _table(metadata: MetaData, name: str, *parts: Column[object] | Index | UniqueConstraint, has_number: bool) -> Table:
    return Table(
        name,
        metadata,
        *parts,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=has_number,  # else the primary key is the table, and not an index beside it
    )


def _locks(metadata: MetaData, prefix: str) -> Table:
    return _table(
        metadata,
        f"{prefix}_locks",
        Column("key", Key(), primary_key=True),
        Column("slot", Integer(), primary_key=True, autoincrement=False),
        Column("owner", Key(), nullable=False),
        Column("kind", Characters(), nullable=False),
        Column("task", Characters(), nullable=False),
        Column("is_lease", Boolean(), nullable=False),
        # The call in which its owner last asked for it, and whether it had it before: a repeated call is told the same.
        Column("call", BigInteger(), nullable=False),
        Column("was_held", Boolean(), nullable=False),
        Column("payload", Characters()),
        Column("taken", Microseconds(), nullable=False),
        Column("expires", Microseconds(), nullable=False),  # `FOR_EVER` or more: until it is freed
        Index(f"{prefix}_locks_by_owner", "owner"),
        Index(f"{prefix}_locks_by_expiry", "expires"),
        has_number=False,
    )


def _limits(metadata: MetaData, prefix: str) -> Table:
    return _table(
        metadata,
        f"{prefix}_limits",
        Column("number", Number, primary_key=True, autoincrement=True),
        Column("name", Key(), nullable=False),
        Column("key", Key(), nullable=False),
        # The start of window 0, how long each lasts, and the end of the last in which a start is counted.
        Column("opened", Microseconds(), nullable=False),
        Column("length", Microseconds(), nullable=False),
        Column("expires", Microseconds(), nullable=False),
        # The window of the last change, and the last in which a start is kept for somebody.
        Column("current", BigInteger(), nullable=False),
        Column("last_kept", BigInteger(), nullable=False),
        # From the current window up to this one, each has so many starts or more.
        Column("room_from", BigInteger(), nullable=False),
        Column("room_limit", BigInteger(), nullable=False),
        UniqueConstraint("name", "key", name=f"{prefix}_limits_key"),
        Index(f"{prefix}_limits_by_expiry", "expires"),
        has_number=True,
    )


def _limit_windows(metadata: MetaData, prefix: str) -> Table:
    return _table(
        metadata,
        f"{prefix}_limit_windows",
        Column("grid", Number, primary_key=True, autoincrement=False),
        Column("position", Number, primary_key=True, autoincrement=False),
        Column("starts", BigInteger(), nullable=False),
        # Those of them that are kept, and not granted to anybody yet.
        Column("unclaimed", BigInteger(), nullable=False),
        has_number=False,
    )


def _limit_starts(metadata: MetaData, prefix: str) -> Table:
    return _table(
        metadata,
        f"{prefix}_limit_starts",
        Column("grid", Number, primary_key=True, autoincrement=False),
        Column("caller", Key(), primary_key=True),
        Column("position", BigInteger(), nullable=False),
        Index(f"{prefix}_limit_starts_by_position", "grid", "position"),
        has_number=False,
    )


def _debounces(metadata: MetaData, prefix: str) -> Table:
    return _table(
        metadata,
        f"{prefix}_debounces",
        Column("key", Key(), primary_key=True),
        Column("period", BigInteger(), primary_key=True, autoincrement=False),
        Column("opened", Microseconds(), nullable=False),
        Column("expires", Microseconds(), nullable=False),
        Column("reserved", BigInteger(), nullable=False),
        # The place that supersedes those of lower numbers, and its job: empty if it started before it was confirmed.
        Column("newest", BigInteger(), nullable=False),
        Column("job_id", Characters(), nullable=False),
        # The numbers of the places whose jobs have started.
        Column("started", Json(), nullable=False),
        Index(f"{prefix}_debounces_by_expiry", "expires"),
        has_number=False,
    )
