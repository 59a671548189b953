"""Two transactions that are open at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, text

from celery_laravel.stores.sqlalchemy import SQLAlchemyStore
from celery_laravel.testing.processes import wait_until

Answer = TypeVar("Answer")

WAITING = {
    "postgresql": (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ),
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}


def both_held_open(
    store: SQLAlchemyStore,
    first: Callable[[Connection], Answer],
    second: Callable[[Connection], Answer],
    *,
    commits: bool = True,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[Answer, Answer]:
    """Do a thing, and another in a second transaction that has to wait for the end of the first one."""
    database = store._database

    def begin(connection: Connection) -> None:
        if database.dialect.begin is not None:
            connection.exec_driver_sql(database.dialect.begin)

    def wait_and_commit() -> Answer:
        with database._engine().connect() as connection:
            begin(connection)
            answer = second(connection)
            connection.commit()
            return answer

    with ThreadPoolExecutor(1) as pool, database._engine().connect() as connection:
        begin(connection)
        answer = first(connection)
        later: Future[Answer] = pool.submit(wait_and_commit)
        wait_until(lambda: is_waiting(store), 10, interval=0.2)  # asked more often, MariaDB repeats what it said
        meanwhile()
        assert not later.done()
        connection.commit() if commits else connection.rollback()
        return answer, later.result(10)


def is_waiting(store: SQLAlchemyStore) -> bool:
    query = text(WAITING[store._database.dialect.name])
    with store._database._engine().connect() as connection:
        return bool(connection.execute(query).scalar_one())
