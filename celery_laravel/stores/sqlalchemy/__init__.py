"""State in an SQL database: SQLite, PostgreSQL, MariaDB and MySQL."""

from celery_laravel.stores.sqlalchemy.store import SQLAlchemyStore
from celery_laravel.stores.sqlalchemy.tables import metadata_for

__all__ = ["SQLAlchemyStore", "metadata_for"]
