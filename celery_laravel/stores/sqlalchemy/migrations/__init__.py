"""The versions of the tables, and how to get from one to the next."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, MetaData, String, Table, inspect, select

from celery_laravel.errors import ConfigurationError
from celery_laravel.stores.sqlalchemy.tables import version_table_for

if TYPE_CHECKING:
    from sqlalchemy import Connection

HEAD = "0005"
"""The newest version, known without loading Alembic: an up-to-date database needs none of it."""
BEFORE: tuple[str | None, ...] = (None, "0001", "0002", "0003", "0004")
"""The versions before it, oldest first. A database of any other is of a newer library, and is left alone."""

_one_at_a_time = threading.Lock()
"""Alembic keeps the migration that runs in a global."""


def current(connection: Connection, prefix: str) -> str | None:
    """The version a database is at; None before the first."""
    name = version_table_for(prefix)
    if not inspect(connection).has_table(name):
        return None
    return connection.scalar(select(Table(name, MetaData(), Column("version_num", String(32))).c.version_num))


def upgrade(connection: Connection, prefix: str, revision: str) -> None:
    """Run the migrations up to a revision, in the transaction that the connection is in.

    Raises:
        ConfigurationError: The database is at a version of which this library
            does not know.
    """
    from alembic import command

    _known(connection, prefix)
    config = _config(connection, prefix)
    with _one_at_a_time:
        command.upgrade(config, revision)


def pending(connection: Connection, prefix: str) -> list[str]:
    """The revisions between a database's version and the newest, in the order in which they would run.

    Raises:
        ConfigurationError: The database is at a version of which this library
            does not know.
    """
    version = _known(connection, prefix)
    after = [*BEFORE, HEAD]
    return [revision for revision in after[after.index(version) + 1 :] if revision is not None]


def _known(connection: Connection, prefix: str) -> str | None:
    version = current(connection, prefix)
    if version == HEAD or version in BEFORE:
        return version
    msg = (
        f"The tables with the prefix {prefix!r} are at version {version!r}, which this version of celery-laravel "
        f"does not know: it is newer than {HEAD!r}. Update celery-laravel."
    )
    raise ConfigurationError(msg)


def _config(connection: Connection, prefix: str) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes.update(connection=connection, prefix=prefix)
    return config
