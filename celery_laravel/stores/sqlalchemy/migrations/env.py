"""What Alembic runs: this library hands over a connection, and the prefix of the tables."""

from __future__ import annotations

from alembic import context

from celery_laravel.stores.sqlalchemy.tables import metadata_for, version_table_for

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=metadata_for(attributes["prefix"]),
    version_table=version_table_for(attributes["prefix"]),
)
with context.begin_transaction():
    context.run_migrations(prefix=attributes["prefix"])
