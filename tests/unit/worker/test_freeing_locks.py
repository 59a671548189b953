"""Locks that a running job takes are freed when its attempt ends, before anything follows from it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain
from celery.exceptions import Ignore, Reject

from celery_laravel import JobReleasedError, install
from celery_laravel.attempt import leases
from celery_laravel.attempt.running_job import running_of
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import LockRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    return install(make_app(task_always_eager=True))


def held(app: Celery) -> list[str]:
    return [record.key for record in store_of(app).locks.all()]


def take(key: str = "k", *, is_lease: bool = True) -> Callable[..., Any]:
    """A middleware that takes a lock and goes on."""

    def layer(job: Any, go_on: Any) -> Any:
        running = running_of(job)
        request = LockRequest(key, running.owner, "test", job.name, leases.LEASE, is_lease)
        assert leases.acquire(store_of(job.app), running, request).acquired
        return go_on(job)

    return layer


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({}, lambda job: None),
        ({}, lambda job: job.fail("no")),
        ({}, lambda job: job.delete()),
        ({"tries": 3}, lambda job: job.release(5) if job.attempts == 1 else None),
        ({"tries": 2}, lambda job: _raise(OSError("x"))),
        ({"max_retries": 1, "default_retry_delay": 0}, lambda job: job.retry(exc=OSError("x"))),
        ({}, lambda job: _raise(Ignore())),
        ({}, lambda job: _raise(Reject())),
    ],
)
def test_however_an_attempt_ends_its_locks_are_free(
    app: Celery, options: dict[str, Any], body: Callable[[Any], Any]
) -> None:
    seen: list[Any] = []

    @app.task(bind=True, middleware=[take("a"), take("b")], **options)
    def job(self: Any) -> Any:
        seen.append(held(app))
        return body(self)

    job.delay()

    assert seen
    assert all(keys == ["a", "b"] for keys in seen)
    assert held(app) == []


def test_the_next_step_of_a_chain_and_the_failed_hook_find_them_free(app: Celery) -> None:
    seen: list[Any] = []

    @app.task(middleware=[take()])
    def step(*_: Any) -> None:
        seen.append(held(app))

    @app.task(middleware=[take()], failed=lambda *_: seen.append(held(app)))
    def fails(*_: Any) -> None:
        raise OSError

    chain(step.s(), step.s(), fails.s()).apply_async()

    assert seen == [["k"], ["k"], []]


def test_every_start_is_another_owner(app: Celery) -> None:
    owners: list[str] = []

    @app.task(bind=True, tries=3)
    def job(self: Any, depth: int = 0) -> None:
        owners.append(running_of(self).owner)
        if depth < 1:
            self.dispatch_sync(depth + 1)
            if self.attempts < 3:
                self.release()

    job.delay()

    assert len(owners) == len(set(owners)) == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exception_that_ends_the_process_frees_them_too(app: Celery, error: type[BaseException]) -> None:
    @app.task(middleware=[take()])
    def job() -> None:
        assert held(app) == ["k"]
        raise error

    with pytest.raises(error):
        job.dispatch_sync()

    assert held(app) == []


def test_dispatch_sync_that_releases_frees_them(app: Celery) -> None:
    @app.task(bind=True, middleware=[take()])
    def job(self: Any) -> None:
        self.release(1)

    with pytest.raises(JobReleasedError):
        job.dispatch_sync()

    assert held(app) == []


def test_all_locks_are_freed_in_one_call(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    locks = store_of(app).locks
    free = locks.release_soon

    def counted(keys: Any, *, owner: str) -> None:
        calls.append(keys)
        free(keys, owner=owner)

    monkeypatch.setattr(locks, "release_soon", counted)

    @app.task(middleware=[take("a"), take("b"), take("a")])
    def job() -> None:
        """Hold two locks."""

    job.delay()

    assert calls == [["a", "b"]]


def test_a_store_that_fails_then_changes_no_outcome(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(store_of(app).locks, "release_soon", fail)

    @app.task(middleware=[take()])
    def job() -> str:
        return "done"

    with caplog.at_level(logging.ERROR):
        assert job.delay().get() == "done"
    (said,) = [record for record in caplog.records if "freeing its locks failed; its outcome stands" in record.message]
    assert "Cannot reach the store at gone" in said.message
    assert said.exc_info is None, "an outage meets many jobs, and the message says it all"
    assert [record.is_lease for record in store_of(app).locks.all()] == [True]


def test_a_plain_task_can_hold_locks_too(app: Celery) -> None:
    @app.task(bind=True)
    def task(self: Any) -> None:
        assert self.attempts == 1  # which makes it known as a running job
        take()(self, lambda _: None)
        assert held(app) == ["k"]

    task.delay().get()

    assert held(app) == []
