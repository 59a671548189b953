"""Fresh and empty SQL stores: a file each on SQLite, and the same tables emptied after each test on servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine

from celery_laravel.stores.contracts import Store
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore, metadata_for

PREFIX = "suite"
_migrated: set[str] = set()


@contextmanager
def sqlite(request: pytest.FixtureRequest) -> Iterator[Store]:
    store = SQLAlchemyStore(f"sqlite:///{request.getfixturevalue('tmp_path')}/store.db")
    yield store
    store.close()


@contextmanager
def postgresql(request: pytest.FixtureRequest) -> Iterator[Store]:
    with on_server(request.getfixturevalue("postgresql_url")) as store:
        yield store


@contextmanager
def mariadb(request: pytest.FixtureRequest) -> Iterator[Store]:
    with on_server(request.getfixturevalue("mariadb_url")) as store:
        yield store


@contextmanager
def on_server(url: str) -> Iterator[SQLAlchemyStore]:
    """A store whose tables are made once in a run, and emptied after each test."""
    store = SQLAlchemyStore(url, PREFIX)
    if url not in _migrated:
        store.migrate()
        _migrated.add(url)
    yield store
    store.close()
    engine = create_engine(url)
    with engine.begin() as connection:
        for table in metadata_for(PREFIX).sorted_tables:
            connection.execute(table.delete())
    engine.dispose()
