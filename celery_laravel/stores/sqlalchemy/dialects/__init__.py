"""Where SQLite, PostgreSQL and MySQL differ; everything else is written once.

Each dialect begins transactions in its own way, tells the time, puts a row
where there may be one already, gives a changed row back, and tells errors that
pass from errors that stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_laravel.errors import ConfigurationError
from celery_laravel.stores.sqlalchemy.dialects.mysql import MySQL
from celery_laravel.stores.sqlalchemy.dialects.postgresql import PostgreSQL
from celery_laravel.stores.sqlalchemy.dialects.sqlite import SQLite

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from celery_laravel.stores.sqlalchemy.dialects.contract import Dialect


def dialect_for(url: URL, shown: str) -> Dialect:
    """The dialect of a URL.

    Raises:
        ConfigurationError: No store is kept in such a database.
    """
    known: dict[str, type[Dialect]] = {"sqlite": SQLite, "postgresql": PostgreSQL, "mysql": MySQL}
    dialect = url.get_dialect()
    if dialect.name not in known or dialect.is_async:
        msg = (
            f"The store {shown!r}: an SQL store is kept in SQLite (sqlite:///…), PostgreSQL (postgresql+psycopg://…) "
            "or MariaDB and MySQL (mysql+pymysql://…), with a driver that is not asynchronous."
        )
        raise ConfigurationError(msg)
    return known[dialect.name]()
