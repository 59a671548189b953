"""Rows whose time is over: removed by those who write, a few at a time, now and then."""

from __future__ import annotations

import logging
import random
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError

from celery_laravel.errors import CeleryLaravelError
from celery_laravel.stores.sqlalchemy.columns import given, giving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Column, Connection

    from celery_laravel.stores.sqlalchemy.engine import Database

logger = logging.getLogger(__name__)

SLICE = 500  # rows in one statement: SQLite takes no more than some thousand parameters, older ones 999
CALLS = 200
"""One call in so many prunes. A call leaves a row or two behind, so that more go than come."""


class Expired(Protocol):
    """What there is to prune."""

    def find(self, connection: Connection) -> Sequence[Any]:
        """Up to `SLICE` keys that have expired rows, the oldest first."""

    def remove(self, connection: Connection, keys: Sequence[Any]) -> int:
        """Remove the expired rows of these keys, in a transaction; return how many. Others may have been before."""


class ExpiredRows:
    """The rows of a table, found by a column of its key, that are past their ``expires``."""

    def __init__(self, database: Database, key: Column[Any]) -> None:
        has_expired = key.table.c.expires <= database.dialect.now
        keys = given("keys", key.type, expanding=True)
        self._finding = select(key).where(has_expired).order_by(key.table.c.expires).limit(SLICE)
        self._removing = delete(key.table).where(key.in_(keys), has_expired)

    def find(self, connection: Connection) -> Sequence[Any]:
        return sorted(set(connection.scalars(self._finding)))

    def remove(self, connection: Connection, keys: Sequence[Any]) -> int:
        return connection.execute(self._removing, giving(keys=keys)).rowcount


class Pruning:
    """Removes what has expired from one table: `all` of it when asked, a little `now_and_then`."""

    def __init__(self, database: Database, expired: Expired) -> None:
        self._database = database
        self._expired = expired

    def all(self) -> int:
        """Remove what has expired; return how many."""
        removed = 0
        while keys := self._database.single(self._expired.find):
            removed += self._database.transaction(partial(self._expired.remove, keys=keys))
        return removed

    def now_and_then(self) -> None:
        """In one call of `CALLS`, taken at random, remove up to `SLICE` keys; in the others do nothing.

        For callers whose own work is done: what goes wrong is told to the log
        at debug level, and tried again some other time.
        """
        if random.random() * CALLS >= 1:
            return
        try:
            keys = self._database.single(self._expired.find)
            if keys:
                self._database.transaction(partial(self._expired.remove, keys=keys), patient=False)
        except (CeleryLaravelError, SQLAlchemyError) as error:
            logger.debug("Expired rows at %s stay for now: %s", self._database.url, error)
