"""Claims of failed jobs: a record stays until its job has been sent again.

As in the first version, what is there already is left alone.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, inspect

from celery_laravel.stores.sqlalchemy.columns import Identifier, Microseconds

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade(prefix: str) -> None:
    """Make the columns, and the index that finds the claimed among many."""
    table, index = f"{prefix}_failed_jobs", f"{prefix}_failed_jobs_by_claim"
    there = {column["name"] for column in inspect(op.get_bind()).get_columns(table)}
    for name, type_ in (("claimed_by", Identifier()), ("claimed_until", Microseconds())):
        if name not in there:
            op.add_column(table, Column(name, type_))
    if index not in {known["name"] for known in inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(index, table, ["claimed_until"])


def downgrade(prefix: str) -> None:
    """Remove them, and with them who was retrying what."""
    with op.batch_alter_table(f"{prefix}_failed_jobs") as failed_jobs:
        failed_jobs.drop_index(f"{prefix}_failed_jobs_by_claim")
        failed_jobs.drop_column("claimed_until")
        failed_jobs.drop_column("claimed_by")
