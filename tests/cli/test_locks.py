from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery

from celery_laravel import Bus
from celery_laravel.cli.text import span
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.records import LockRequest
from tests.cli.conftest import Run

Hold = Callable[..., None]


@pytest.fixture
def hold(app: Celery) -> Iterator[Hold]:
    """A function that takes a lock for somebody."""
    store = runtime_of(app).store.locks

    def hold(key: str, owner: str = "6f0b/1", **more: Any) -> None:
        given: dict[str, Any] = {
            "kind": "overlap",
            "task": "shop.charge",
            "ttl": timedelta(seconds=90),
            "is_lease": True,
        } | more
        assert store.acquire(LockRequest(key, owner, **given)).acquired

    yield hold
    for record in store.all():
        store.free(record.key)


def test_the_locks_are_listed_oldest_first(run: Run, hold: Hold):
    hold("overlap:shop.charge:7")
    hold("unique:shop.charge", "an-id", kind="unique", ttl=None, is_lease=False)
    result = run("locks")
    assert result.exit_code == 0
    header, first, second = result.stdout.splitlines()
    assert header.split("  ")[0] == "KEY"
    assert first.split()[:3] == ["overlap:shop.charge:7", "overlap", "shop.charge"]
    assert "1 min" in first
    assert ", renewed" in first
    assert first.endswith("6f0b/1")
    assert "never" in second


def test_no_lock_is_no_error(run: Run):
    result = run("locks")
    assert (result.exit_code, result.stdout) == (0, "No locks are held.\n")
    assert json.loads(run("locks", "--json").stdout) == []


def test_a_listing_in_json_is_one_document_with_the_keys_of_the_record(run: Run, hold: Hold):
    hold("a")
    hold("b", ttl=None, is_lease=False)
    first, second = json.loads(run("locks", "--json").stdout)
    assert list(first) == ["key", "owner", "task", "kind", "taken_at", "expires_at"]
    taken, expires = (datetime.fromisoformat(first[name]) for name in ("taken_at", "expires_at"))
    assert abs((expires - taken).total_seconds() - 90) < 1
    assert abs((datetime.now(timezone.utc) - taken).total_seconds()) < 60
    assert second["expires_at"] is None


def test_a_limit_shortens_the_list(run: Run, hold: Hold):
    for key in "abc":
        hold(key)
    result = run("locks", "--limit", "2", "--json")
    assert [lock["key"] for lock in json.loads(result.stdout)] == ["a", "b"]
    assert "2 locks shown, and there are more; --limit 0 shows all." in result.stderr


def test_a_lock_is_freed_by_its_key(run: Run, hold: Hold, app: Celery):
    hold("overlap:shop.charge:7")
    result = run("unlock", "overlap:shop.charge:7")
    assert result.exit_code == 0
    assert result.stdout == "The lock 'overlap:shop.charge:7' is free; it was held by 6f0b/1.\n"
    assert Bus(app).locks.all() == []


def test_a_key_that_nobody_holds_is_an_error_that_names_close_ones(run: Run, hold: Hold, app: Celery):
    hold("overlap:shop.charge:7")
    result = run("unlock", "overlap:shop.charge:8")
    assert result.exit_code == 1
    assert result.stderr == "Error: Nobody holds a lock 'overlap:shop.charge:8'. Did you mean overlap:shop.charge:7?\n"
    assert len(Bus(app).locks.all()) == 1


def test_the_bus_finds_and_frees_locks(app: Celery, hold: Hold):
    hold("k", slots=2)
    hold("k", "another", slots=2)
    locks = Bus(app).locks
    assert [record.owner for record in locks.find("k")] == ["6f0b/1", "another"]
    assert locks.release("k") is True
    assert locks.release("k") is False
    assert locks.find("k") == []


def test_locks_that_a_task_keeps_in_another_store_are_listed_and_freed(
    run: Run, hold: Hold, app: Celery, tmp_path: Any
):
    hold("overlap:shop.charge:7")

    @app.task(name="shop.index", unique=True, unique_via=f"sqlite:///{tmp_path}/locks.db", shared=False)
    def index() -> None:
        """Never run."""

    job_id = index.delay().id

    assert run("locks").stdout.count("\n") == 3
    held = Bus(app).locks.all()
    assert [(record.key, record.owner) for record in held[1:]] == [("unique:shop.index", job_id)]
    assert Bus(app).locks.all(limit=1) == held[:1]
    assert (
        run("unlock", "unique:shop.index").stdout == f"The lock 'unique:shop.index' is free; it was held by {job_id}.\n"
    )
    assert Bus(app).locks.find("unique:shop.index") == []
    assert index.delay().suppressed is False


def test_tasks_that_cannot_be_imported_leave_the_list_to_what_is_known(run: Run, hold: Hold, app: Celery):
    hold("overlap:shop.charge:7")
    app.conf.include = ["no.such.module"]

    result = run("locks")

    assert result.exit_code == 0
    assert "overlap:shop.charge:7" in result.stdout
    assert "unique_via) may be missing: The app's tasks cannot be imported: ModuleNotFoundError" in result.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (41.4, "41 s"),
        (185, "3 min 5 s"),
        (3600, "1 h 0 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_lengths_of_time_are_told_in_two_units(seconds: float, text: str):
    assert span(seconds) == text
