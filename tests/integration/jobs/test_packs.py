"""Packed members in real workers: limits, revocations, and processes that die."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from billiard.exceptions import TimeLimitExceeded
from celery.exceptions import TaskRevokedError
from celery.utils import uuid

from celery_laravel import JobTimedOutError
from celery_laravel.stores.factory import store_of
from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_laravel import Batch
    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

SHORT_LEASES = {"JOBS_LEASE": "3"}


class Packed:
    """A packed batch, the keys of its members, and its callbacks."""

    def __init__(self, lab: Lab, *scripts: str | tuple[str, str], size: int = 100, **options: Any) -> None:
        self.lab, self.key = lab, str(uuid())
        self.keys = [str(uuid()) for _ in scripts]
        jobs = []
        for key, script in zip(self.keys, scripts, strict=True):
            task, action = script if isinstance(script, tuple) else ("plain", script)
            jobs.append(lab.app.tasks[task].si(key, [action, "return:again"]).set(task_id=f"id-{key}", **options))
        pending = lab.bus.batch(jobs).pack(size).allow_failures()
        for kind in ("then", "catch", "finally_"):
            pending = getattr(pending, kind)(lab.app.tasks["note"].s(kind, self.key))
        self.batch: Batch = pending.dispatch()

    def counts(self) -> tuple[int, int, int]:
        """Succeeded, failed, pending, once the batch has finished."""
        batch = self.batch.wait(timeout=60)
        return batch.processed_jobs - batch.failed_jobs, batch.failed_jobs, batch.pending_jobs

    def runs(self) -> list[int]:
        """How often each member has been run."""
        return [len(self.lab.attempts(key)) for key in self.keys]

    def called(self, *kinds: str) -> bool:
        """Whether these callbacks, and no others, have been called, each once."""
        self.lab.wait_for(self.key, "notes", len(kinds))
        notes = self.lab.written(self.key, "notes")
        return sorted(note[-1].strip("'") for note in notes) == sorted(kinds)

    def result(self, position: int) -> Any:
        """The result of a member."""
        return self.lab.app.AsyncResult(f"id-{self.keys[position]}")


@contextlib.contextmanager
def held_back(lab: Lab) -> Iterator[None]:
    """Keep what is dispatched meanwhile in its queue."""
    lab.app.control.cancel_consumer(lab.places["queue"], reply=True, timeout=5, limit=1)
    try:
        yield
    finally:
        lab.app.control.add_consumer(lab.places["queue"], reply=True, timeout=5, limit=1)


def test_members_run_in_one_process_one_after_another_and_are_counted_once(lab: Lab) -> None:
    # With a delay: of a job that is back at once, Celery may store that it is tried again after it has succeeded.
    packed = Packed(lab, *["return:x"] * 30, ("backoff", "raise:x"), "release:0.3", ("tries1", "raise:no"))
    assert packed.counts() == (32, 1, 0)
    assert packed.runs() == [1] * 30 + [2, 2, 1]
    runs = [lab.written(key, "runs")[0] for key in packed.keys[:30]]
    assert len({run["pid"] for run in runs}) == 1
    assert [run["at"] for run in runs] == sorted(run["at"] for run in runs)
    assert [run["id"] for run in runs] == [f"id-{key}" for key in packed.keys[:30]]
    assert [packed.result(position).get(timeout=30) for position in (0, 30, 31)] == ["x", "again", "again"]
    assert lab.attempts(packed.keys[30]) == [1, 2]
    assert packed.called("catch", "finally_")
    record = wait_until(lambda: lab.bus.failed.find(f"id-{packed.keys[32]}"))
    assert lab.bus.failed.retry(record.id)
    assert packed.counts() == (33, 0, 0)
    assert packed.called("catch", "finally_", "then")


def test_a_process_that_dies_takes_no_member_with_it(lab: Lab) -> None:
    """The one that kills it every time ends, and its mates run beside it no more."""
    packed = Packed(lab, *["return:x"] * 5, "die", *["return:x"] * 5, ("tries1", "die"))
    assert packed.counts() == (11, 1, 0)
    runs = packed.runs()
    assert (runs[5], runs[-1]) == (2, 1)
    assert all(n <= 2 for n in runs[:5])
    assert runs[6:11] == [1] * 5
    assert packed.called("catch", "finally_")


def test_a_member_that_always_kills_its_process_fails(lab: Lab) -> None:
    key, mate = str(uuid()), str(uuid())
    jobs = [lab.sig("plain", "die", key=key), lab.sig("plain", "return:x", key=mate)]
    batch = lab.bus.batch(jobs).pack(10).allow_failures().dispatch().wait(timeout=60)
    assert (batch.failed_jobs, batch.pending_jobs) == (1, 0)
    assert (len(lab.attempts(key)), lab.attempts(mate)) == (4, [1])


def test_a_soft_limit_ends_the_member_that_runs(lab: Lab) -> None:
    packed = Packed(lab, "return:x", ("timeout", "wait"), ("timeout_fails", "wait"), "return:x")
    assert packed.counts() == (3, 1, 0)
    assert packed.runs() == [1, 2, 1, 1]
    with pytest.raises(JobTimedOutError):
        packed.result(2).get(timeout=10)


def test_a_hard_limit_ends_the_member_that_runs_and_no_other(lab: Lab) -> None:
    packed = Packed(lab, *["return:x"] * 3, "wait", *["return:x"] * 3, time_limit=1)
    assert packed.counts() == (6, 1, 0)
    assert packed.runs() == [1] * 7
    with pytest.raises(TimeLimitExceeded):
        packed.result(3).get(timeout=10)
    assert packed.called("catch", "finally_")
    record = wait_until(lambda: lab.bus.failed.find(f"id-{packed.keys[3]}"))
    assert record.exception.startswith("TimeLimitExceeded")
    assert lab.written(packed.keys[3], "failed") == ["TimeLimitExceeded: TimeLimitExceeded(1,)"]


def test_a_member_that_is_revoked_before_it_begins_does_not_run(lab: Lab) -> None:
    with held_back(lab):
        packed = Packed(lab, "wait", "return:x", "return:x", "return:x")
        lab.app.control.revoke(packed.result(1).id, reply=True, timeout=5, limit=1)
    lab.wait_for(packed.keys[0], "runs")
    lab.app.control.revoke(packed.result(3).id, reply=True, timeout=5, limit=1)
    assert Packed(lab, "wait:2", "return:x").counts() == (2, 0, 0)  # the worker has looked after its packs since
    lab.go_on(packed.keys[0])
    assert packed.counts() == (2, 2, 0)
    assert packed.runs() == [1, 0, 1, 0]
    with pytest.raises(TaskRevokedError):
        packed.result(1).get(timeout=10)


def test_the_events_are_those_of_jobs_in_messages_of_their_own(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.worker("-E") as worker, lab.app.connection_for_read() as own:
        seen: list[dict[str, Any]] = []
        receiver = lab.app.events.Receiver(own, handlers={"*": seen.append})
        with receiver.consumer_context(wakeup=False) as (connection, _, _):

            def drain() -> None:
                with contextlib.suppress(TimeoutError, OSError):
                    while True:
                        connection.drain_events(timeout=0.2)

            drain()  # which is when it begins to listen
            packed = Packed(lab, "return:x", ("tries1", "raise:no"), "retry")
            assert packed.counts() == (2, 1, 0)

            def kinds(position: int) -> list[str]:
                drain()
                mine = [event for event in seen if event.get("uuid") == f"id-{packed.keys[position]}"]
                return [event["type"].removeprefix("task-") for event in mine]

            begun = ["received", "started"]
            wait_until(lambda: kinds(0) == [*begun, "succeeded"])
            wait_until(lambda: kinds(1) == [*begun, "failed"])
            wait_until(lambda: kinds(2) == [*begun, "retried", *begun, "succeeded"])
        hosts = {event["hostname"] for event in seen if event.get("uuid", "").startswith("id-")}
        assert hosts == {worker.name}
        assert not [event for event in seen if event.get("name") == "celery_laravel.pack"]


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_packs_run_in_a_pool(make_lab: MakeLab, pool: str) -> None:
    lab = make_lab()
    with lab.worker(pool=pool, concurrency=1 if pool == "solo" else 4):
        packed = Packed(lab, *["return:x"] * 20, ("tries3", "raise:x"), "release", ("tries1", "raise:no"), size=7)
        assert packed.counts() == (22, 1, 0)
        assert packed.runs() == [1] * 20 + [2, 2, 1]
        assert packed.called("catch", "finally_")


@pytest.mark.parametrize(
    ("broker", "store"),
    [
        pytest.param("rabbitmq", "postgresql", marks=[pytest.mark.rabbitmq, pytest.mark.postgresql]),
        pytest.param("database", "sqlite", marks=pytest.mark.slow),
        pytest.param("redis", "redis", marks=pytest.mark.slow),
    ],
)
def test_packs_survive_their_workers_on_every_broker(make_lab: MakeLab, broker: str, store: str, tmp_path: Any) -> None:
    places = {"database": f"database+sqlite:///{tmp_path}/broker.db", "sqlite": f"sqlite:///{tmp_path}/store.db"}
    options = {"broker_transport_options": {"visibility_timeout": 5}} if broker == "database" else {}
    lab = make_lab(broker=places.get(broker, broker), store=places.get(store, store), **options)
    if store == "postgresql":
        store_of(lab.app).migrate()  # type: ignore[attr-defined]  # the tables of SQL stores alone
    with lab.worker(env=SHORT_LEASES) as worker:
        packed = Packed(lab, *["return:x"] * 10, "wait:60", *["return:x"] * 10, ("tries3", "release"))
        lab.wait_for(packed.keys[10], "runs")
        worker.kill()
        worker.restart()
        assert packed.counts() == (22, 0, 0)
        runs = packed.runs()
        assert all(n in {1, 2} for n in runs[:10])
        assert runs[10:] == [2] + [1] * 10 + [2]
        assert packed.called("then", "finally_")


def test_one_who_kills_children_at_random_repeats_members_and_doubles_no_count(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.worker(env=SHORT_LEASES) as worker:
        packed = Packed(lab, *["return:x"] * 400, size=50)

        def processed() -> int:
            batch = packed.batch.fresh()
            assert batch is not None
            return batch.processed_jobs

        for goal in (60, 180, 300):
            wait_until(lambda goal=goal: processed() >= goal)  # type: ignore[misc]  # bound to the loop's value
            for pid in worker.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert packed.counts() == (400, 0, 0)
        assert min(packed.runs()) >= 1
        assert packed.called("then", "finally_")
