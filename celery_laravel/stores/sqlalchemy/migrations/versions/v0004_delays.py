"""Delayed jobs.

As in the first version, what is there already is left alone.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Boolean, Column, Index, MetaData, Table, UniqueConstraint

from celery_laravel.stores.sqlalchemy.columns import Characters, Identifier, Key, Microseconds, Number

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade(prefix: str) -> None:
    """Make the table."""
    table = _delays(prefix)
    table.create(op.get_bind(), checkfirst=True)
    for index in table.indexes:
        index.create(op.get_bind(), checkfirst=True)


def downgrade(prefix: str) -> None:
    """Remove the table, and all that is in it."""
    _delays(prefix).drop(op.get_bind(), checkfirst=True)


def _delays(prefix: str) -> Table:
    return Table(
        f"{prefix}_delays",
        MetaData(),
        Column("number", Number, primary_key=True, autoincrement=True),
        Column("entry", Key(), nullable=False),
        Column("job_id", Identifier(), nullable=False),
        Column("task", Characters(), nullable=False),
        Column("queue", Characters(), nullable=False),
        Column("message", Characters(), nullable=False),
        Column("due", Microseconds(), nullable=False),
        # When it may be claimed: when it is due, or once the lease of who claimed it is over.
        Column("leaves", Microseconds(), nullable=False),
        Column("parked", Microseconds(), nullable=False),
        Column("is_revoked", Boolean(), nullable=False),
        UniqueConstraint("entry", name=f"{prefix}_delays_entry"),
        Index(f"{prefix}_delays_by_leaving", "leaves"),
        Index(f"{prefix}_delays_by_due", "due", "number"),
        Index(f"{prefix}_delays_by_job", "job_id"),
        Index(f"{prefix}_delays_by_queue", "queue", "due", mysql_length={"queue": 191}),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )
