"""Callbacks of batches that come once a member, before the first, or when a chain is to go on.

As in the first version, what is there already is left alone.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Boolean, Column, Index, Integer, MetaData, Table, false, inspect

from celery_laravel.stores.sqlalchemy.columns import Identifier, Json, Microseconds, Number

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade(prefix: str) -> None:
    """Make the table, and the column that tells which batches need it."""
    table = _owed(prefix)
    table.create(op.get_bind(), checkfirst=True)
    for index in table.indexes:
        index.create(op.get_bind(), checkfirst=True)
    if "owes" not in {column["name"] for column in inspect(op.get_bind()).get_columns(f"{prefix}_batches")}:
        op.add_column(f"{prefix}_batches", Column("owes", Boolean(), nullable=False, server_default=false()))


def downgrade(prefix: str) -> None:
    """Remove them, and what was due."""
    _owed(prefix).drop(op.get_bind(), checkfirst=True)
    with op.batch_alter_table(f"{prefix}_batches") as batches:
        batches.drop_column("owes")


def _owed(prefix: str) -> Table:
    return Table(
        f"{prefix}_batch_owed",
        MetaData(),
        Column("batch", Number, primary_key=True, autoincrement=False),
        Column("kind", Identifier(), primary_key=True),
        Column("position", Integer(), primary_key=True, autoincrement=False),
        Column("occasion", Number, primary_key=True, autoincrement=False),
        Column("due", Microseconds(), nullable=False),
        Column("exception", Json()),
        Index(f"{prefix}_batch_owed_by_due", "due"),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=False,
    )
