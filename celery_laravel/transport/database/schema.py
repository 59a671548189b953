"""The versions of the broker's tables, and how to get from one to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from celery_laravel.transport.database.errors import BrokerUnusableError
from celery_laravel.transport.database.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection

    from celery_laravel.transport.database.tables import Tables


def _create(connection: Connection, tables: Tables) -> None:
    tables.metadata.create_all(connection)


def _add_task_id(connection: Connection, tables: Tables) -> None:
    """Add the column by which delayed messages are found, where `_create` of an older version left it out."""
    messages = tables.messages
    column = messages.c.task_id
    found = sa.inspect(connection)
    if column.name not in {known["name"] for known in found.get_columns(messages.name)}:
        preparer = connection.dialect.identifier_preparer
        kind = column.type.compile(connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {preparer.format_table(messages)} ADD COLUMN {column.name} {kind}")
    for index in messages.indexes:
        if index.name not in {known["name"] for known in found.get_indexes(messages.name)}:
            index.create(connection)


STEPS: Mapping[int, Callable[[Connection, Tables], None]] = {1: _create, 2: _add_task_id}
"""What brings the tables from the version before to each version."""


def current(connection: Connection, tables: Tables) -> int:
    """The version a database is at; 0 before the first."""
    if not sa.inspect(connection).has_table(tables.schema.name):
        return 0
    return _version(connection, tables)


def pending(connection: Connection, tables: Tables, shown: str) -> list[int]:
    """The versions between that of a database and this library's, in order.

    Raises:
        BrokerUnusableError: The tables are of a newer library.
    """
    version = current(connection, tables)
    if version > SCHEMA_VERSION:
        raise BrokerUnusableError(_mismatch(shown, version, "Update celery-laravel"))
    return [step for step in STEPS if step > version]


def upgrade(connection: Connection, tables: Tables, shown: str) -> list[int]:
    """Bring the tables to this library's version, within a ``migrating`` of the dialect's, and say what was done."""
    steps = pending(connection, tables, shown)
    for step in steps:
        STEPS[step](connection, tables)
        connection.execute(tables.schema.insert(), {"version": step})
    return steps


def check_version(connection: Connection, tables: Tables, shown: str, *, remedy: str) -> None:
    """See to it that the tables are of this library's version.

    Raises:
        BrokerUnusableError: They are of another. ``remedy`` is what to do about older ones.
    """
    version = _version(connection, tables)
    if version != SCHEMA_VERSION:
        newer = "Use one version of celery-laravel for all processes of this broker"
        raise BrokerUnusableError(_mismatch(shown, version, remedy if version < SCHEMA_VERSION else newer))


def _version(connection: Connection, tables: Tables) -> int:
    return connection.execute(sa.select(sa.func.max(tables.schema.c.version))).scalar() or 0


def _mismatch(shown: str, version: int, remedy: str) -> str:
    return f"The broker's tables in {shown} are of version {version}, this library knows {SCHEMA_VERSION}. {remedy}"
