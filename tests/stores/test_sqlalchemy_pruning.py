"""What has expired goes from the tables as others write, a little now and then, and never to their harm."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.exc import OperationalError

from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.records import LockRequest, Window
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore, pruning
from celery_laravel.testing.store_suite import Advance, ServerTime, VirtualTime

HOUR = timedelta(hours=1)

Write = Callable[[SQLAlchemyStore, str, timedelta], object]


@pytest.fixture
def store(sql_store: SQLAlchemyStore) -> SQLAlchemyStore:
    return sql_store


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SQLAlchemyStore]:
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/store.db")
    store.ping()
    yield store
    store.close()


@pytest.fixture
def advance(store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch) -> Advance:
    return VirtualTime(monkeypatch) if store.url.startswith("sqlite") else ServerTime()


@pytest.fixture
def chance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Say what the dice show: below 1 / `pruning.CALLS`, a call prunes."""

    class Dice:
        shows = 0.9

        def random(self) -> float:
            return self.shows

    dice = Dice()
    monkeypatch.setattr(pruning, "random", dice)
    return lambda shows: setattr(dice, "shows", shows)


def begin(store: SQLAlchemyStore, name: str, keep: timedelta) -> None:
    lease = timedelta()
    store.attempts.begin(name, turn=0, attempts=0, exceptions=0, owner="w", lease=lease, keep=keep)


def acquire(store: SQLAlchemyStore, name: str, keep: timedelta) -> None:
    assert store.locks.acquire(LockRequest(name, name, "overlap", ttl=keep)).acquired


def take(store: SQLAlchemyStore, name: str, keep: timedelta) -> None:
    assert store.limits.take("limiter", [Window(name, 1, keep.total_seconds())], caller=name).granted


def hit(store: SQLAlchemyStore, name: str, keep: timedelta) -> None:
    store.limits.hit("limiter", name, seconds=keep.total_seconds())


def reserve(store: SQLAlchemyStore, name: str, keep: timedelta) -> None:
    store.debounces.reserve(name, wait=keep, max_wait=None, keep=keep)


WRITES: dict[str, Write] = {
    "attempts": begin,
    "locks": acquire,
    "limits": take,
    "limit_windows": hit,
    "debounces": reserve,
}


def counted(store: SQLAlchemyStore, table: str) -> int:
    rows = select(func.count()).select_from(getattr(store._database.tables, table))
    return store._database.single(lambda connection: connection.execute(rows).scalar_one())


@pytest.mark.parametrize("table", WRITES)
def test_a_call_removes_now_and_then_what_has_expired(
    store: SQLAlchemyStore, advance: Advance, chance: Callable[[float], None], table: str
):
    write = WRITES[table]
    for number in range(3):
        write(store, f"old-{number}", advance.short)
    write(store, "young", advance.long)
    advance(advance.short)
    write(store, "another", advance.long)
    assert counted(store, table) == 5
    chance(0.0)
    write(store, "last", advance.long)
    assert counted(store, table) == 3


def test_one_call_removes_no_more_than_a_slice(
    store: SQLAlchemyStore, advance: Advance, chance: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
):
    for number in range(5):
        acquire(store, f"old-{number}", advance.short)
    advance(advance.short)
    monkeypatch.setattr(pruning, "SLICE", 2)
    small = SQLAlchemyStore(store._database._address.render_as_string(hide_password=False), store._database.prefix)
    chance(0.0)
    acquire(small, "lock", advance.long)
    assert counted(store, "locks") == 4
    chance(0.9)
    assert small.locks.prune() == 3, "all of it, when asked"
    small.close()


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("sqlite://", "gone"), OperationalError("DELETE", None, Exception("gone"))], ids=type
)
def test_who_cannot_prune_has_done_its_own_work(
    store: SQLAlchemyStore,
    chance: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(store.locks._pruning._expired, "find", fail)
    chance(0.0)
    with caplog.at_level(logging.DEBUG, logger=pruning.logger.name):
        acquire(store, "lock", HOUR)
    assert "Expired rows at" in caplog.text
    assert [record.key for record in store.locks.all()] == ["lock"]


def test_a_busy_database_is_not_waited_for_again_and_again(tmp_path: Path, chance: Callable[[float], None]):
    """The look for what has expired waits for nobody; the removal is given up when it does not get its turn."""
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/store.db?timeout=0.01")
    acquire(store, "old", timedelta())
    tries: list[object] = []
    remove = store.locks._pruning._expired.remove

    def lose(connection: object, keys: object) -> int:
        tries.append(keys)
        with store._database._engine().connect() as other:
            other.exec_driver_sql("BEGIN IMMEDIATE")  # this transaction has the turn
        return remove(connection, keys)  # type: ignore[arg-type]

    store.locks._pruning._expired.remove = lose  # type: ignore[method-assign]
    chance(0.0)
    acquire(store, "lock", HOUR)
    assert tries == [["old"]]
    assert counted(store, "locks") == 2
    store.close()


def test_one_call_in_some_hundreds_prunes(sqlite: SQLAlchemyStore, chance: Callable[[float], None]):
    looks: list[object] = []
    event.listen(sqlite._database._engine(), "before_cursor_execute", lambda *args: looks.append(args[2]))
    for shown in (0.999, 0.5, 1 / pruning.CALLS):
        chance(shown)
        sqlite.locks._pruning.now_and_then()
    assert looks == []
    chance(0.99 / pruning.CALLS)
    sqlite.locks._pruning.now_and_then()
    assert len(looks) == 1, "one look, and nothing to remove"
