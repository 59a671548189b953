"""Messages that are delivered again while their job runs: the copy waits, and is dropped when the job has ended."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid
from kombu.transport.redis import Channel

from celery_laravel import MaxAttemptsExceededError
from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.jobs.conftest import Lab, MakeLab
    from tests.support.worker import RunningWorker

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

VISIBILITY = 2
SHORT_LEASES = {"JOBS_LEASE": "3"}
REFUSED = "is not started: a copy of it runs"


@pytest.fixture
def kombus_redis(make_lab: MakeLab) -> Iterator[Lab]:
    """kombu's own transport gives a message away after the visibility timeout, whether its worker lives or not."""
    lab = make_lab(laravel_safe_redis=False)
    lab.conf["broker_transport_options"] = {
        **lab.app.conf.broker_transport_options,
        "visibility_timeout": VISIBILITY,
    }
    lab.app.conf.update(lab.conf)
    with nullcontext() if hasattr(Channel, "unacked_restore_interval") else redelivering(lab):
        yield lab


@contextmanager
def redelivering(lab: Lab) -> Iterator[None]:
    """Look for what is overdue once a second, as older kombus do only every 100 seconds."""
    is_over = threading.Event()

    def look() -> None:
        with lab.app.connection_for_write() as connection:
            qos = connection.default_channel.qos
            while not is_over.wait(1):
                qos.restore_visible(interval=1)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def wait_for_copy(workers: list[RunningWorker]) -> None:
    wait_until(lambda: any(REFUSED in worker.log_text() for worker in workers), 40, message="a copy was delivered")


def wait_for_no_message(lab: Lab) -> None:
    """Wait until the Redis broker has neither queued nor unacknowledged messages."""
    client, prefix = lab.app.record.client, f"{lab.places['queue']}:"
    keys = [prefix + lab.places["queue"], prefix + "unacked"]
    wait_until(lambda: not client.exists(*keys), 40, message="no message is left")


@pytest.mark.parametrize(
    "pool", ["prefork", *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("threads", "solo"))]
)
def test_of_two_workers_that_get_a_job_one_runs_it(kombus_redis: Lab, pool: str) -> None:
    lab = kombus_redis
    with lab.worker(pool=pool, env=SHORT_LEASES) as one, lab.worker(pool=pool, env=SHORT_LEASES) as two:
        result, key = lab.send("tries1", "wait:60+return:done")
        lab.wait_for(key, "runs")
        wait_for_copy([one, two])
        lab.go_on(key)
        assert result.get(timeout=30) == "done"
        wait_for_no_message(lab)
    assert lab.attempts(key) == [1]


def test_of_two_workers_that_get_a_long_member_that_declares_no_limit_one_runs_it(kombus_redis: Lab) -> None:
    """Its start is written down once it has run for a while; before that, brokers have patience."""
    lab = kombus_redis
    with lab.worker(env=SHORT_LEASES) as one, lab.worker(env=SHORT_LEASES) as two:
        key = uuid()
        batch = lab.bus.batch([lab.sig("bare", "wait:60+return:done", key=key)]).dispatch()
        lab.wait_for(key, "runs")
        wait_for_copy([one, two])
        lab.go_on(key)
        ended = batch.wait(timeout=30)
        assert (ended.total_jobs, ended.failed_jobs, ended.pending_jobs) == (1, 0, 0)
        wait_for_no_message(lab)
    assert lab.attempts(key) == [1]


def test_a_copy_that_expires_while_its_job_runs_changes_nothing(kombus_redis: Lab) -> None:
    """Nor does it free the job's unique lock."""
    lab = kombus_redis
    with lab.worker(env=SHORT_LEASES) as one, lab.worker(env=SHORT_LEASES) as two:
        key, other = uuid(), uuid()
        batch = lab.bus.batch([lab.sig("tries1", "wait:60+return:done", key=key).set(expires=4)]).dispatch()
        unique, _ = lab.send("unique", "wait:60+return:done", key=other, expires=4)
        for name in (key, other):
            lab.wait_for(name, "runs")
        discarded = ("Discarding revoked task: tries1", "Discarding revoked task: unique")
        wait_until(lambda: all(text in one.log_text() + two.log_text() for text in discarded), 40)
        assert (batch.fresh().pending_jobs, unique.state) == (1, "STARTED")
        assert [lock.owner for lock in lab.bus.locks.all()] == [unique.id]
        for name in (key, other):
            lab.go_on(name)
        ended = batch.wait(timeout=30)
        assert (ended.total_jobs, ended.failed_jobs, ended.pending_jobs) == (1, 0, 0)
        assert unique.get(timeout=30) == "done"
        wait_for_no_message(lab)
        assert (lab.attempts(key), lab.attempts(other), lab.bus.failed.count()) == ([1], [1], 0)


def test_a_copy_that_has_expired_is_settled_once_the_worker_of_its_job_has_died(kombus_redis: Lab) -> None:
    lab = kombus_redis
    with lab.worker(env=SHORT_LEASES) as one, ExitStack() as stack:
        key = uuid()
        job_id = uuid()
        job = lab.sig("tries3", "wait:60", key=key).set(expires=4, task_id=job_id)
        batch = lab.bus.batch([job]).allow_failures().dispatch()
        lab.wait_for(key, "runs")
        two = stack.enter_context(lab.worker(env=SHORT_LEASES))
        wait_until(lambda: "Discarding revoked task: tries3" in one.log_text() + two.log_text(), 40)
        # The message that waits in its place is with a worker again: between the two, kombu's transport loses it.
        received = f"[{job_id}] received"
        wait_until(lambda: sum(worker.log_text().count(received) for worker in (one, two)) > 2)
        one.kill()
        ended = batch.wait(timeout=40)
        assert (ended.total_jobs, ended.failed_jobs, ended.pending_jobs) == (1, 1, 0)
        assert wait_until(lab.bus.failed.count) == 1
        assert lab.attempts(key) == [1]


@pytest.mark.slow
def test_a_copy_of_a_job_that_has_failed_leaves_its_failure(kombus_redis: Lab) -> None:
    """Workers here store that a job has started, which a copy has not."""
    lab = kombus_redis
    with lab.worker(env=SHORT_LEASES) as one, lab.worker(env=SHORT_LEASES) as two:
        result, key = lab.send("tries1", "wait:60+raise:broken")
        lab.wait_for(key, "runs")
        wait_for_copy([one, two])
        lab.go_on(key)
        with pytest.raises(OSError, match="broken"):
            result.get(timeout=30)
        wait_for_no_message(lab)
        assert lab.app.AsyncResult(result.id).state == "FAILURE"
    assert lab.attempts(key) == [1]
    assert len(lab.written(key, "failed")) == 1


def test_a_copy_uses_up_no_attempt_and_takes_over_when_the_worker_dies(kombus_redis: Lab) -> None:
    lab = kombus_redis
    with lab.worker(env=SHORT_LEASES) as one, ExitStack() as stack:
        result, key = lab.send("tries3", "wait:60+return:first", "raise:again", "return:done")
        lab.wait_for(key, "runs")
        two = stack.enter_context(lab.worker(env=SHORT_LEASES))
        wait_for_copy([one, two])
        # The message that waits in its place is with a worker again: between the two, kombu's transport loses it.
        received = f"[{result.id}] received"
        wait_until(lambda: sum(worker.log_text().count(received) for worker in (one, two)) > 2)
        one.kill()
        assert result.get(timeout=40) == "done"
        wait_for_no_message(lab)
    assert lab.attempts(key) == [1, 2, 3]


@pytest.mark.slow
def test_a_job_that_kills_every_worker_with_its_copies_starts_as_often_as_its_tries(kombus_redis: Lab) -> None:
    lab = kombus_redis
    with lab.worker(env=SHORT_LEASES) as one, lab.worker(env=SHORT_LEASES) as two:
        result, key = lab.send("tries3", "wait:60+die", "die")
        lab.wait_for(key, "runs")
        wait_for_copy([one, two])
        lab.go_on(key)
        with pytest.raises(MaxAttemptsExceededError, match="attempt 4 of 3"):
            result.get(timeout=60)
        wait_for_no_message(lab)
    assert lab.attempts(key) == [1, 2, 3]
    assert len(lab.written(key, "failed")) == 1


@pytest.fixture(
    params=[
        "redis",
        pytest.param("sqlite", marks=pytest.mark.slow),
        pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, pytest.mark.slow]),
    ]
)
def renewing(request: pytest.FixtureRequest, make_lab: MakeLab, tmp_path: Path) -> Lab:
    """A broker that gives a message away only when its worker has not been heard of for a while."""
    options: dict[str, Any] = {"visibility_timeout": VISIBILITY}
    if request.param == "rabbitmq":
        return make_lab(broker="rabbitmq", broker_heartbeat=VISIBILITY)
    if request.param == "redis":
        return make_lab()
    return make_lab(broker=f"database+sqlite:///{tmp_path}/broker.db", broker_transport_options=options)


def test_the_job_of_a_worker_whose_main_process_stands_still_is_not_started_again(renewing: Lab) -> None:
    """The broker thinks it dead; its child runs on, and keeps the attempt alive by itself."""
    lab = renewing
    with lab.worker(env=SHORT_LEASES, concurrency=1) as one:
        _, key = lab.send("tries1", "wait:60+return:done")
        lab.wait_for(key, "runs")
        one.send(signal.SIGSTOP)
        try:
            with lab.worker(env=SHORT_LEASES) as two:
                wait_for_copy([two])
                lab.go_on(key)
                over = "is not started: a copy of a turn that is over"
                wait_until(lambda: over in two.log_text(), 40, message="the copy is dropped")
                assert lab.attempts(key) == [1]
        finally:
            one.send(signal.SIGCONT)


@pytest.mark.parametrize("renewing", ["redis", "sqlite"], indirect=True)
def test_a_killed_workers_job_comes_back(renewing: Lab) -> None:
    lab = renewing
    with lab.worker(env=SHORT_LEASES) as worker:
        result, key = lab.send("tries3", "wait:60", "return:done")
        lab.wait_for(key, "runs")
        worker.kill()
        worker.restart()
        assert result.get(timeout=40) == "done"
    assert lab.attempts(key) == [1, 2]


@pytest.mark.parametrize(("signum", "attempts"), [(signal.SIGTERM, [1]), (signal.SIGQUIT, [1, 2])])
def test_a_worker_that_is_stopped_leaves_no_lease_behind(make_lab: MakeLab, signum: int, attempts: list[int]) -> None:
    """Warm or cold. Leases last for a minute here, which nobody waits for."""
    lab = make_lab()
    with lab.worker() as one:
        result, key = lab.send("tries3", "wait:60+return:done", "return:done")
        lab.wait_for(key, "runs")
        one.wait_until_active(lab.app)
        one.send(signum)
        if signum == signal.SIGTERM:
            one.wait_for_log("Warm shutdown")
            lab.go_on(key)
        one.process.wait(30)
        with lab.worker():
            assert result.get(timeout=30) == "done"
    assert lab.attempts(key) == attempts


def test_the_attempt_of_a_process_that_is_gone_ends_at_once(make_lab: MakeLab) -> None:
    """Leases last for a minute here; the worker's main process ends that of a child it has lost."""
    lab = make_lab()
    with lab.worker():
        result, key = lab.send("tries3", "die", "die", "return:done")
        assert result.get(timeout=30) == "done"
    assert lab.attempts(key) == [1, 2, 3]
