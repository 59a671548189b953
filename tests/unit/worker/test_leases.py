"""Leases that are renewed by whoever holds them and by the worker's parent, and freed when a child is gone."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.worker import state

from celery_laravel import WithoutOverlapping
from celery_laravel.attempt import leases
from celery_laravel.attempt.ownership import owner_of
from celery_laravel.bootsteps.leases import Leases
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import LockRequest
from celery_laravel.testing.processes import wait_until
from celery_laravel.worker import leases as parents
from celery_laravel.worker.request import JobRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


@pytest.fixture(autouse=True)
def nothing_active() -> Iterator[None]:
    yield
    state.reset_state()
    parents._leaving.clear()


@pytest.fixture
def job(app: Celery) -> Any:
    @app.task(name="job", middleware=[WithoutOverlapping()], ignore_result=True)
    def job() -> None:
        """Hold a lock."""

    return job


@pytest.fixture
def gone_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def make_request(task: Any, job_id: str = "an-id") -> JobRequest:
    """A message in the worker's parent."""
    headers = {"id": job_id, "task": task.name, "root_id": job_id, "mine": 1}
    message = SimpleNamespace(
        headers=headers,
        body="[[], {}, {}]",
        content_type="application/json",
        content_encoding="utf-8",
        payload=[[], {}, {}],
        delivery_info={"exchange": "", "routing_key": task.app.main},
        properties={"correlation_id": job_id},
    )
    return JobRequest(message, app=task.app, task=task)


def accepted(request: JobRequest, *, pid: int, ago: float = 15) -> JobRequest:
    """The request, as it is when a child runs its job since so many seconds."""
    request.on_accepted(pid, time.monotonic() - ago)
    return request


def hold(app: Celery, owner: str, key: str = "k", *, ttl: float = 60, is_lease: bool = True) -> None:
    request = LockRequest(key, owner, "overlap", ttl=timedelta(seconds=ttl), is_lease=is_lease)
    assert store_of(app).locks.acquire(request).acquired


def expires_in(app: Celery, key: str = "k") -> float:
    (record,) = store_of(app).locks.find(key)
    assert record.expires_at is not None
    return float(record.expires_at.timestamp() - time.time())


def lost(error: BaseException) -> ExceptionInfo:
    try:
        raise error
    except type(error):
        return ExceptionInfo()


def step(app: Celery) -> Any:
    found = Leases(SimpleNamespace(app=app))
    return SimpleNamespace(renew=lambda: found._renew(app), look=lambda: found._end_what_is_gone(app))


def test_the_child_finds_the_token_that_the_parent_knows_and_the_message_keeps_its_own_headers(job: Any) -> None:
    request = make_request(job)

    (owner,) = request.lease_owners
    assert owner_of(request._context) == owner
    assert request._context.headers["mine"] == 1
    assert "laravel_owner" not in request._context.headers
    assert request.message.properties == {"correlation_id": "an-id"}
    assert "laravel_owner" not in str(dict(job.signature_from_request(request._context)))


def test_every_delivery_of_a_message_is_another_start(job: Any) -> None:
    assert make_request(job).lease_owners != make_request(job).lease_owners


def test_a_plain_tasks_request_is_celerys(app: Celery) -> None:
    @app.task
    def plain() -> None:
        """Declare nothing."""

    request = make_request(plain)

    assert request.lease_owners == ()
    assert request.request_dict["properties"] is request.message.properties


def test_the_parent_renews_for_jobs_that_run_for_some_time(app: Celery, job: Any) -> None:
    requests = [make_request(job, f"id-{n}") for n in range(3)]
    accepted(requests[0], pid=os.getpid(), ago=11)
    accepted(requests[1], pid=os.getpid(), ago=1)
    for request in requests:
        hold(app, request.lease_owners[0], request.id, ttl=5)

    step(app).renew()

    assert [expires_in(app, request.id) > 50 for request in requests] == [True, False, False]


def test_where_no_job_is_long_the_store_is_not_asked(app: Celery, job: Any, no_store: None) -> None:
    accepted(make_request(job), pid=os.getpid(), ago=1)

    step(app).renew()


def test_a_job_that_has_ended_is_not_renewed(app: Celery, job: Any) -> None:
    request = accepted(make_request(job), pid=os.getpid())
    hold(app, request.lease_owners[0], ttl=5)
    state.task_ready(request)

    step(app).renew()

    assert expires_in(app) <= 5


def test_many_are_renewed_in_slices(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def renewed(owners: Any, *, ttl: timedelta) -> int:
        calls.append(len(owners))
        return 0

    monkeypatch.setattr(store_of(app).locks, "renew", renewed)

    leases.renew(store_of(app), [f"o-{n}" for n in range(1100)], {})

    assert calls == [500, 500, 100]


def test_a_store_that_does_not_answer_is_told_once_and_again_when_it_does(
    app: Celery, job: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = accepted(make_request(job), pid=os.getpid())
    hold(app, request.lease_owners[0], ttl=5)
    renewing = step(app)

    def fail(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("gone")

    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(store_of(app).locks, "renew", fail)
        renewing.renew()
        renewing.renew()
    renewing.renew()

    assert caplog.text.count("cannot be renewed: Cannot reach the store at gone") == 1
    assert caplog.text.count("are renewed again") == 1
    assert expires_in(app) > 50


@pytest.mark.parametrize("error", [WorkerLostError("lost"), Terminated("SIGKILL")])
@pytest.mark.parametrize("is_lease", [True, False])
def test_the_parent_frees_the_locks_of_a_child_that_is_gone(
    app: Celery, job: Any, gone_pid: int, error: Exception, is_lease: bool
) -> None:
    request = accepted(make_request(job), pid=gone_pid)
    hold(app, request.lease_owners[0], is_lease=is_lease)
    hold(app, "somebody else", "other")

    request.on_failure(lost(error))

    assert [record.key for record in store_of(app).locks.all()] == ["other"]


def test_they_are_free_before_the_message_goes_to_another_worker(app: Celery, job: Any, gone_pid: int) -> None:
    seen: list[Any] = []
    request = accepted(make_request(job), pid=gone_pid)
    request.task.acks_late = request.task.reject_on_worker_lost = True
    request.acknowledged = False
    request._on_reject = lambda *_: seen.append(store_of(app).locks.all())
    hold(app, request.lease_owners[0])

    request.on_failure(lost(WorkerLostError("lost")))

    assert seen == [[]]


def test_the_locks_of_a_child_that_still_lives_are_not_freed_until_it_is_gone(
    app: Celery, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over its hard limit a job is reported first and killed afterwards."""
    child = subprocess.Popen(["sleep", "60"])
    request = accepted(make_request(job), pid=child.pid)
    hold(app, request.lease_owners[0], ttl=5)
    try:
        request.on_timeout(soft=False, timeout=1)
        request.on_failure(lost(TimeLimitExceeded(1)))
        step(app).look()
        step(app).renew()
        assert expires_in(app) > 50
    finally:
        child.kill()
        child.wait()
    step(app).look()
    assert store_of(app).locks.all() == []
    assert parents._leaving == {}


def test_a_terminated_job_keeps_its_locks_until_its_child_is_gone(app: Celery, job: Any) -> None:
    request = accepted(make_request(job), pid=os.getpid())
    hold(app, request.lease_owners[0], ttl=5)

    request._announce_revoked("terminated", True, "SIGTERM", False)
    step(app).look()
    step(app).renew()

    assert expires_in(app) > 50


def test_a_terminated_greenlet_which_has_no_process_keeps_nothing(app: Celery, job: Any) -> None:
    """In pools of gevent and eventlet, Celery has an address in memory for a process's id."""
    request = accepted(make_request(job), pid=0x7F12CF297240)
    hold(app, request.lease_owners[0], ttl=5)

    request._announce_revoked("terminated", True, "SIGTERM", False)
    step(app).look()

    assert store_of(app).locks.all() == []
    assert parents._leaving == {}


def test_a_process_that_outlives_its_job_does_not_keep_its_locks(
    app: Celery, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = accepted(make_request(job), pid=os.getpid())
    request.on_timeout(soft=False, timeout=1)
    monkeypatch.setattr(leases, "LEASE", timedelta(0))

    step(app).look()

    assert parents._leaving == {}


def test_a_store_that_fails_when_locks_are_to_be_freed_is_logged(
    app: Celery, job: Any, gone_pid: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(owner: str) -> None:
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(store_of(app).locks, "release_all", fail)

    accepted(make_request(job), pid=gone_pid).on_failure(lost(WorkerLostError("lost")))

    assert "whose process is gone, end by themselves" in caplog.text


def renewing() -> threading.Thread | None:
    """The thread of the test's own keeper; those of other tests may still be about to end."""
    return leases._keeper()._thread


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew every 50 ms, in a keeper of the test's own."""
    monkeypatch.setattr(leases, "INTERVAL", 0.05)
    monkeypatch.setattr(leases, "_keepers", {})


def test_a_process_renews_what_it_holds_and_stops_when_it_holds_nothing(app: Celery, quick: None) -> None:
    store = store_of(app)
    hold(app, "me", ttl=5)

    leases.keep_alive(store, "me")
    thread = renewing()
    leases.keep_alive(store, "me")
    wait_until(lambda: expires_in(app) > 50)
    assert thread is not None
    assert renewing() is thread
    leases.let_go("me")
    wait_until(lambda: renewing() is None and not thread.is_alive())

    hold(app, "me", "again", ttl=5)
    leases.keep_alive(store, "me")
    wait_until(lambda: expires_in(app, "again") > 50)
    leases.let_go("me")


def test_the_keeper_goes_on_when_the_store_is_back(
    app: Celery, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hold(app, "me", ttl=5)
    failed = threading.Event()

    def fail(*_: Any, **__: Any) -> None:
        failed.set()
        raise StoreUnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(store_of(app).locks, "renew", fail)
        leases.keep_alive(store_of(app), "me")
        assert failed.wait(30)
    wait_until(lambda: expires_in(app) > 50)
    wait_until(lambda: "Leases are renewed again" in caplog.text)
    leases.let_go("me")

    assert caplog.text.count("could not be renewed in memory://") == 1


def test_a_machine_without_room_for_a_thread_renews_once_there_is(
    app: Celery, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(app, "me", ttl=5)

    def no_room(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_room)
        with pytest.raises(RuntimeError):
            leases.keep_alive(store_of(app), "nobody")
    assert leases._keeper()._held == {}, "whoever was told that it failed holds nothing"
    leases.keep_alive(store_of(app), "me")
    wait_until(lambda: expires_in(app) > 50)
    leases.let_go("me")


def test_an_attempt_that_cannot_be_written_down_keeps_no_other_lease_from_being_renewed(
    app: Celery, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    hold(app, "me", ttl=5)

    def begin() -> None:
        raise ValueError("an id of 300 characters")

    leases.keep_attempt_alive(store_of(app), "odd", "odd/1", begin=begin)
    leases.keep_alive(store_of(app), "me")
    wait_until(lambda: expires_in(app) > 50)
    leases.let_go("me")
    assert caplog.text.count("Job odd runs on, and has no lease") == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_a_keeper_of_its_own(app: Celery, quick: None) -> None:
    """The leases it inherited are its parent's to renew; its own need a thread, which no fork copies."""
    leases.keep_alive(store_of(app), "parent")
    pid = os.fork()
    if pid == 0:
        leases.keep_alive(store_of(app), "child")
        keeper = leases._keeper()
        is_right = list(keeper._held) == [("child", None)] and keeper._thread is not None and keeper._thread.is_alive()
        os._exit(0 if is_right else 1)
    leases.let_go("parent")

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_attempts_lease_is_kept_while_it_runs_and_let_go_after(app: Celery, job: Any, quick: None) -> None:
    app.conf.task_always_eager = True
    seen: list[Any] = []

    @app.task(name="long", middleware=[WithoutOverlapping()])
    def long() -> None:
        hold(app, next(iter(store_of(app).locks.all())).owner, "overlap:long", ttl=1)
        wait_until(lambda: expires_in(app, "overlap:long") > 50)
        seen.extend(leases._keeper()._held)

    long.dispatch_sync()

    assert len(seen) == 1
    assert leases._keeper()._held == {}


def test_a_lock_with_a_hard_limit_is_not_kept(app: Celery, quick: None) -> None:
    @app.task(middleware=[WithoutOverlapping(expire_after=5)])
    def job() -> dict[str, Any]:
        return dict(leases._keeper()._held)

    assert job.dispatch_sync() == {}
