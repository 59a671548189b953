"""Making and changing the broker's tables on a server; on SQLite connecting does that."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from celery_laravel.transport.database import schema
from celery_laravel.transport.database.dialects import dialect_for
from celery_laravel.transport.database.options import PREFIX, read_options
from celery_laravel.transport.database.tables import Tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy import Connection

    from celery_laravel.transport.database.dialects import Dialect
    from celery_laravel.transport.database.options import BrokerOptions


def brokers_to_migrate(urls: Iterable[str], transport_options: Mapping[str, Any]) -> dict[str, BrokerOptions]:
    """Those of some broker URLs whose tables have to be migrated, by their URLs without passwords."""
    found = {}
    for url in urls:
        if url.startswith(PREFIX):
            options = read_options(url.removeprefix(PREFIX), transport_options)
            if not dialect_for(options).makes_its_tables:
                found[PREFIX + _shown(options)] = options
    return found


def pending(options: BrokerOptions) -> list[int]:
    """The versions that `migrate` would bring the tables to, in order; none when they are as they should be.

    Raises:
        BrokerUnusableError: The tables are of a newer version of this library.
        BrokerUnavailableError: The database did not answer.
    """
    dialect, tables = dialect_for(options), Tables(options.table_prefix)
    with _connection(dialect) as connection:
        return schema.pending(connection, tables, _shown(options))


def migrate(options: BrokerOptions) -> list[int]:
    """Bring the broker's tables to this library's version, and say to which versions on the way.

    Running it twice changes nothing more; of several that do so at once, one
    does it and the others wait. On PostgreSQL all of it is done or nothing. On
    MariaDB and MySQL, which store each change of a table at once, what a crash
    left half done is finished by the next run.

    Raises:
        BrokerUnusableError: The tables are of a newer version of this library,
            or this user may not make tables.
        BrokerUnavailableError: The database did not answer.
    """
    dialect, tables = dialect_for(options), Tables(options.table_prefix)
    with _connection(dialect) as connection, dialect.migrating(connection, tables):
        return schema.upgrade(connection, tables, _shown(options))


@contextmanager
def _connection(dialect: Dialect) -> Iterator[Connection]:
    with dialect.open_for_migration() as connection:
        try:
            yield connection
        except DBAPIError as error:
            raise dialect.explain(error) from error


def _shown(options: BrokerOptions) -> str:
    return make_url(options.url).render_as_string(hide_password=True)
