"""What the doctor makes of the facts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_laravel import Bus, clock, embedded, install
from celery_laravel._version import __version__
from celery_laravel.operations.doctor import Examination, Finding, Level, examine
from celery_laravel.operations.doctor.batches import check_batches, check_callbacks
from celery_laravel.operations.doctor.broker import check_queues, check_timeouts
from celery_laravel.operations.doctor.delays import check_delays
from celery_laravel.operations.doctor.installation import STEPS, check_workers
from celery_laravel.operations.doctor.leases import check_leases
from celery_laravel.operations.doctor.messages import Messages, count_messages, queues_of
from celery_laravel.operations.doctor.store import check_store, conditions_of
from celery_laravel.operations.doctor.unique_locks import check_unique_locks
from celery_laravel.operations.doctor.workers import WorkerReport
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import (
    BatchRecord,
    LockRequest,
    MemberEnd,
    MemberState,
    NewBatch,
    NewDelay,
    Persistence,
    StoreCondition,
)


@pytest.fixture
def app() -> Celery:
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.update(laravel_store="memory://")
    install(app)

    @app.task(name="charge", shared=False, tries=2, timeout=900)
    def charge() -> None: ...

    return app


@pytest.fixture
def found(app: Celery) -> Examination:
    return Examination(app)


def a_worker(name: str = "one", **more: Any) -> WorkerReport:
    given = {
        "version": __version__,
        "store": "memory://",
        "prefix": "laravel",
        "steps": tuple(STEPS),
        "queues": ("celery",),
    }
    return WorkerReport(name, **(given | more))


def make(app: Celery, jobs: int = 2, *, is_open: bool = False, batch_id: str = "b") -> BatchRecord:
    batches = store_of(app).batches
    batches.create(NewBatch(batch_id, "Import", callbacks={"then": [{"task": "t"}], "finally": [{"task": "f"}]}))
    batches.add(batch_id, jobs)
    if not is_open:
        batches.close(batch_id)
    record = batches.find(batch_id)
    assert record is not None
    return record


def the_finding(found: Examination, check: str) -> Finding:
    (finding,) = found.findings
    assert finding.check == check, finding
    assert finding.advice
    return finding


def test_workers_that_are_as_they_should_be_are_fine(found: Examination):
    found.workers = [a_worker("one"), a_worker("two")]
    check_workers(found)
    check_queues(found)
    assert found.findings == []
    assert found.is_healthy


def test_no_worker(found: Examination):
    check_workers(found)
    assert "No worker answers" in the_finding(found, "no-worker").problem
    assert not found.is_healthy


@pytest.mark.parametrize(
    ("check", "worker", "words"),
    [
        ("worker-without-library", WorkerReport("old", is_installed=False), "old"),
        ("mixed-versions", a_worker("old", version="0.0.1"), "old 0.0.1"),
        ("other-store", a_worker("lost", store="redis://elsewhere:6379/0"), "redis://elsewhere:6379/0"),
        ("other-store", a_worker("lost", prefix="shop"), "'shop'"),
        ("missing-step", a_worker("half", steps=("Leases", "Delays")), "DueCallbacks"),
        ("clock-skew", a_worker("late", ahead=-90), "0:01:30 behind"),
        ("clock-skew", a_worker("early", ahead=7200), "2:00:00 ahead of"),
    ],
)
def test_a_worker_that_is_not(found: Examination, check: str, worker: WorkerReport, words: str):
    found.workers = [a_worker(), worker]
    check_workers(found)
    assert words in the_finding(found, check).problem


def test_a_queue_that_no_worker_takes_from(found: Examination):
    found.workers = [a_worker()]
    found.messages = Messages({"celery": 3, "mails": 1200, "empty": 0})
    check_queues(found)
    assert "from the queue 'mails', in which messages wait: 1,200" in the_finding(found, "queue-without-worker").problem


def test_jobs_longer_than_the_broker_waits(found: Examination):
    found.app.conf.update(laravel_safe_redis=False, broker_transport_options={"visibility_timeout": 600})
    check_timeouts(found)
    problem = the_finding(found, "visibility-timeout").problem
    assert "600 s" in problem
    assert "charge (900 s)" in problem


@pytest.mark.parametrize(
    ("check", "level", "given"),
    [
        ("not-persistent", Level.PROBLEM, {"persistence": Persistence.NONE}),
        ("snapshots-only", Level.NOTE, {"persistence": Persistence.SNAPSHOTS}),
        ("eviction", Level.PROBLEM, {"eviction": "allkeys-lru"}),
        ("refuses-changes", Level.PROBLEM, {"refusal": "it is a replica"}),
    ],
)
def test_a_redis_that_may_lose_records(check: str, level: Level, given: dict[str, Any]):
    (finding,) = conditions_of("The store", StoreCondition(clock.as_datetime(clock.now()), **given))
    assert (finding.check, finding.level) == (check, level)
    assert not conditions_of("The store", StoreCondition(clock.as_datetime(clock.now())))


def test_a_store_whose_clock_is_another(found: Examination, monkeypatch: pytest.MonkeyPatch):
    store: Any = store_of(found.app)
    monkeypatch.setattr(
        store, "condition", lambda: StoreCondition(clock.as_datetime(clock.now()) + timedelta(minutes=3))
    )
    assert check_store(found)
    assert "0:03:00 ahead of" in the_finding(found, "clock-skew").problem


def test_a_store_that_is_private_or_not_migrated(found: Examination, monkeypatch: pytest.MonkeyPatch):
    assert check_store(found)
    assert "memory://" in the_finding(found, "private-store").problem
    found.findings.clear()
    store: Any = store_of(found.app)
    lacking = StoreCondition(clock.as_datetime(clock.now()), pending_migrations=("0002",))
    monkeypatch.setattr(store, "condition", lambda: lacking)
    assert not check_store(found)
    assert "laravel migrate" in the_finding(found, "not-migrated").advice


def test_a_batch_whose_messages_are_nowhere(found: Examination):
    found.workers = [WorkerReport("stranger", is_installed=False)]
    found.batch = make(found.app)
    check_batches(found)
    finding = the_finding(found, "not-delivered")
    assert "2 of 2 jobs are outstanding" in finding.problem
    assert "Workers without celery-laravel (stranger) may have run them uncounted" in finding.problem
    assert (finding.batch_id, finding.since) == ("b", found.batch.created_at)
    assert "prune-batches --unfinished" in finding.advice


def test_a_batch_that_was_never_closed(found: Examination):
    found.workers = [a_worker()]
    found.batch = make(found.app, is_open=True)
    check_batches(found)
    assert "2 jobs were added so far, and 0 of them have ended" in the_finding(found, "never-closed").problem


@pytest.mark.parametrize(
    ("check", "worker", "messages"),
    [
        ("goes-on", a_worker(batches={"b": 2}), Messages()),
        ("waiting", a_worker(), Messages({"celery": 12})),
        ("held", a_worker(held=1), Messages({"celery": 0}, {"celery": 2})),
    ],
)
def test_a_batch_that_only_takes_time(found: Examination, check: str, worker: WorkerReport, messages: Messages):
    found.workers, found.messages = [worker], messages
    found.batch = make(found.app)
    check_batches(found)
    assert the_finding(found, check).level is Level.NOTE


def test_a_batch_without_workers(found: Examination):
    found.messages = Messages({"celery": 2})
    found.batch = make(found.app)
    check_batches(found)
    assert "no worker answers" in the_finding(found, "no-worker-for-batch").problem


def test_only_batches_that_are_old_are_looked_into(found: Examination):
    found.workers = [a_worker()]
    make(found.app)
    check_batches(found)
    assert found.findings == []
    found.patience = timedelta()
    check_batches(found)
    the_finding(found, "not-delivered")


def test_callbacks_that_nobody_sends(found: Examination, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("celery_laravel.operations.doctor.batches._OVERDUE", timedelta())
    record = make(found.app, 1)
    store_of(found.app).batches.end_member(MemberEnd("b", 0, "job", MemberState.SUCCEEDED))
    check_callbacks(found)
    finding = the_finding(found, "callbacks-due")
    assert "then:0, finally:0" in finding.problem
    assert "No worker answers that would send them" in finding.problem
    assert finding.since is not None
    assert finding.since >= record.created_at
    found.findings.clear()
    found.workers = [a_worker()]
    check_callbacks(found)
    assert "The workers one are to send them" in the_finding(found, "callbacks-due").problem


def test_without_the_broker_no_batch_is_called_lost(app: Celery):
    app.conf.broker_url = "amqp://guest:secret@127.0.0.1:1//"
    found = examine(app, batch=make(app), timeout=0.1)
    assert "not-delivered" not in {finding.check for finding in found.findings}


def test_of_very_many_batches_some_are_explained(found: Examination):
    found.workers, found.patience = [a_worker()], timedelta()
    for number in range(25):
        make(found.app, batch_id=f"b{number}")
    check_batches(found)
    assert [finding.check for finding in found.findings] == ["not-delivered"] * 20 + ["more-batches"]
    assert "5 more batches" in found.findings[-1].problem


def test_delayed_jobs(found: Examination, monkeypatch: pytest.MonkeyPatch):
    found.workers = [a_worker()]
    batch = found.batch = make(found.app)
    header = {"v": 1, "batch_id": batch.id, "index": 0}
    message = json.dumps({"headers": {"id": "job", "task": "charge", "laravel": header}})
    monkeypatch.setattr("celery_laravel.operations.delayed.headers_of", lambda text: json.loads(text)["headers"])
    store_of(found.app).delays.park([NewDelay("entry", "job", "charge", "celery", message, timedelta(minutes=5))])
    check_delays(found)
    check_batches(found)
    finding = the_finding(found, "delayed")
    assert finding.level is Level.NOTE
    assert "1 of them are delayed" in finding.problem

    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + 600)
    found.findings.clear()
    check_delays(found)
    assert "charge (job) to 'celery'" in the_finding(found, "delays-due").problem


def test_a_lease_whose_job_nobody_runs(found: Examination):
    locks, minute = store_of(found.app).locks, timedelta(minutes=1)
    locks.acquire(LockRequest("gone", "job-1/abc1", kind="overlap", task="charge", ttl=minute, is_lease=True))
    locks.acquire(LockRequest("mine", "job-2/abc2", kind="overlap", task="charge", ttl=minute, is_lease=True))
    locks.acquire(LockRequest("queued", "job-3", kind="unique", task="charge"))
    found.workers = [a_worker(running=("job-2",))]
    check_leases(found)
    finding = the_finding(found, "abandoned-lease")
    assert "'gone'" in finding.problem
    assert finding.level is Level.NOTE


@pytest.fixture
def later(app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Examination]:
    """An examination of an app on the database broker, an hour after its unique jobs were dispatched."""
    embedded(app, tmp_path)

    @app.task(name="index", shared=False, unique=True, unique_id="number")
    def index(number: int) -> None: ...

    for number in range(5):
        index.apply_async((number,), countdown=600 if number == 4 else None)
    hour, now = 3600, clock.now
    monkeypatch.setattr(clock, "now", lambda: now() + hour)
    yield Examination(app)
    store_of(app).close()


def looked_at(found: Examination) -> list[Finding]:
    found.findings.clear()
    found.messages = count_messages(found.app, queues_of(found.app))
    check_unique_locks(found)
    return found.findings


def test_unique_locks_whose_messages_were_purged(later: Examination):
    assert looked_at(later) == []
    with later.app.connection_for_write() as connection, connection.channel() as channel:
        assert channel.basic_get("celery") is not None, "somebody has one, and does not acknowledge it"
        assert looked_at(later) == []
        channel.queue_purge("celery")
        (finding,) = looked_at(later)
    assert finding.level is Level.NOTE
    assert finding.problem.startswith("Of 5 unique locks ")
    assert "'unique:index:0'" in finding.problem
    for lock in store_of(later.app).locks.all():
        store_of(later.app).locks.release_all(lock.owner)
    assert looked_at(later) == []


def test_nothing_is_said_of_unique_locks_where_messages_may_be_elsewhere(later: Examination):
    with later.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_purge("celery")
    assert looked_at(later) != []
    later.workers = [WorkerReport("plain", is_installed=False)]
    assert looked_at(later) == []


def test_members_that_the_database_broker_delays_are_not_taken_for_lost(app: Celery, tmp_path: Path):
    embedded(app, tmp_path)
    batch = Bus(app).batch([app.tasks["charge"].s().set(countdown=600)]).dispatch()
    found = examine(app, batch=store_of(app).batches.find(batch.id), timeout=0.1)
    assert [finding.check for finding in found.findings] == ["no-worker", "delayed"]
    store_of(app).close()


def test_the_default_store_is_not_made_by_looking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    app = install(Celery("shop", broker="memory://", set_as_current=False))
    found = examine(app, timeout=0.1)
    assert [finding.check for finding in found.findings] == ["no-worker", "untouched-store"]
    assert list(tmp_path.iterdir()) == []


def test_a_broker_that_has_to_be_mended_is_no_broker_to_be_started(app: Celery, tmp_path: Path):
    """Its error says what to do; to start it, or to name another one, would help nobody."""
    (tmp_path / "queue.db").write_text("no database")
    app.conf.broker_url = f"database+sqlite:///{tmp_path}/queue.db"
    _, finding = examine(app, timeout=0.1).findings
    assert finding.check == "broker-misconfigured"
    assert "queue.db" in finding.problem
    assert "Start it" not in finding.advice


def test_a_broker_whose_client_is_not_installed_is_a_finding(app: Celery, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    app.conf.broker_url = "redis://127.0.0.1:1/0"
    _, finding = examine(app, timeout=0.1).findings
    assert finding.check == "broker-misconfigured"
    assert "pip install 'celery-laravel[redis]'" in finding.problem


def test_what_cannot_be_reached_is_a_finding(app: Celery):
    app.conf.laravel_store = "redis://127.0.0.1:1/0"
    app.conf.broker_url = "amqp://guest:secret@127.0.0.1:1//"
    found = examine(app, timeout=0.1)
    assert [finding.check for finding in found.findings] == ["store-unreachable", "broker-unreachable"]
    assert "secret" not in str(found.findings)
    assert not found.is_healthy
