"""Delays that wait in the store, moved by real workers."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid
from kombu import Exchange, Queue

from celery_laravel.stores.factory import store_of
from celery_laravel.testing.processes import wait_until
from tests.stores.redis_servers import OwnServer

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

APP = "tests.support.delays_app"
HOUR = 3600.0


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Any:
    """A lab whose worker is not to be disturbed."""
    lab = make_lab(laravel_durable_delay=1)
    with lab.worker(app=APP):
        yield lab


def parked(lab: Lab, *script: str, task: str = "bare", **options: Any) -> tuple[str, str]:
    """Dispatch a job that is not due today; return its id and its key."""
    result, key = lab.send(task, *script, **({"countdown": HOUR} | options))
    assert lab.bus.delayed.find(result.id) is not None
    return result.id, key


def has_settled(lab: Lab, *job_ids: str) -> bool:
    return all(
        lab.app.AsyncResult(job_id).state == "REVOKED" and not lab.bus.delayed.find(job_id) for job_id in job_ids
    )


def test_a_delayed_job_is_seen_while_it_waits(lab: Lab) -> None:
    job_id, _ = parked(lab, "return:x")
    job = lab.bus.delayed.find(job_id)
    assert job is not None
    assert (job.task, job.queue, job.revoked) == ("bare", lab.places["queue"], False)
    assert abs((job.due_at - job.parked_at).total_seconds() - HOUR) < 60
    assert job in lab.bus.delayed.all(queue=job.queue)
    assert lab.bus.delayed.count(queue=job.queue) >= 1
    assert lab.bus.delayed.cancel(job_id)


def test_a_delayed_job_runs_when_it_is_due(lab: Lab) -> None:
    began = time.time()
    result, key = lab.send("bare", "return:x", countdown=2)
    assert result.get(timeout=30) == "x"
    (run,) = lab.written(key, "runs")
    assert run["at"] >= began + 1.9
    assert lab.bus.delayed.find(result.id) is None


def test_a_job_that_is_put_back_for_long_waits_in_the_store(lab: Lab) -> None:
    result, key = lab.send("tries3", "release:3600")
    wait_until(lambda: lab.bus.delayed.find(result.id), 30)
    assert lab.attempts(key) == [1]
    assert lab.bus.delayed.cancel(result.id)
    wait_until(lambda: has_settled(lab, result.id), 30)


def test_a_job_that_waited_goes_on_where_it_was(lab: Lab) -> None:
    result, key = lab.send("tries3", "release:1.5", "raise:no", "return:done")
    assert result.get(timeout=30) == "done"
    assert lab.attempts(key) == [1, 2, 3]


def test_a_job_that_was_called_off_is_settled_at_once(lab: Lab) -> None:
    """Batch, chain and unique lock are as after any revocation, and another job of the key may be dispatched."""
    batch = lab.bus.batch([lab.sig("bare", "return:x", key=uuid()).set(countdown=HOUR)]).dispatch()
    (member,) = [job for job in lab.bus.delayed.all() if job.batch_id == batch.id]
    assert batch.fresh().pending_jobs == 1
    caught = uuid()
    steps = [lab.sig("bare", "return:x", key=uuid()) for _ in range(2)]
    last = lab.bus.chain(steps).catch(lab.app.tasks["note"].s(caught)).delay(HOUR).dispatch()
    assert lab.bus.delayed.cancel(member.id)
    assert lab.bus.delayed.cancel(last.parent.id)
    assert not lab.bus.delayed.cancel("nobody")
    wait_until(lambda: batch.fresh().finished, 30)
    assert batch.fresh().failed_job_ids == [member.id]
    wait_until(lambda: has_settled(lab, member.id, last.parent.id), 30)
    assert "revoked" in lab.wait_for(caught, "notes")[0][0]


def test_an_expiry_that_passes_while_a_job_waits_is_honoured(lab: Lab) -> None:
    result, key = lab.send("bare", "return:x", countdown=2, expires=1)
    wait_until(lambda: has_settled(lab, result.id), 30)
    assert lab.written(key, "runs") == []


def test_a_revocation_outlasts_every_worker(make_lab: MakeLab) -> None:
    """It came by way of a worker alone, as from a client that does not have this library."""
    lab = make_lab(laravel_durable_delay=1)
    job_id, key = parked(lab, "return:x")
    with lab.worker("-Q", f"nothing-{lab.places['queue']}", app=APP, pool="solo") as worker:
        lab.app.control.broadcast("revoke", arguments={"task_id": job_id})
        wait_until(lambda: lab.bus.delayed.find(job_id) is None, 30)
        worker.kill()
    with lab.worker(app=APP, pool="solo"):
        wait_until(lambda: has_settled(lab, job_id), 30)
        result, _ = lab.send("bare", "return:last")
        assert result.get(timeout=30) == "last"
    assert lab.written(key, "runs") == []


def test_a_revocation_needs_no_worker(make_lab: MakeLab) -> None:
    lab = make_lab(laravel_durable_delay=1)
    ids, keys = zip(*(parked(lab, "return:x", countdown=8 if last else HOUR) for last in (0, 0, 1)), strict=True)
    unique_id, unique_key = parked(lab, "return:x", task="tries1")
    lab.app.AsyncResult(ids[0]).revoke()
    lab.app.control.revoke([ids[1], unique_id])
    assert [job.revoked for job in map(lab.bus.delayed.find, [*ids, unique_id]) if job] == [True, True, False, True]
    with lab.worker(app=APP):
        lab.wait_for(keys[2], "runs")
        wait_until(lambda: has_settled(lab, ids[0], ids[1], unique_id), 30)
    assert [lab.written(key, "runs") for key in (keys[0], keys[1], unique_key)] == [[], [], []]


@pytest.mark.parametrize("is_safe", [pytest.param(True, marks=pytest.mark.slow), False])
def test_delays_of_three_times_the_visibility_timeout_run_once(make_lab: MakeLab, is_safe: bool) -> None:
    """With kombu's own transport, too, by which each would be delivered three times if it waited in a worker."""
    options = {"visibility_timeout": 1, "unacked_restore_interval": 0.2, "unacked_restore_throttle": 1}
    lab = make_lab(laravel_durable_delay=1, laravel_safe_redis=is_safe, broker_transport_options=options)
    with lab.worker(), lab.worker():
        keys = [lab.send("bare", "return:x", countdown=3)[1] for _ in range(31)]
        for key in keys:
            lab.wait_for(key, "runs")
        assert lab.send("bare", "return:x", countdown=1)[0].get(timeout=30) == "x"  # a visibility timeout later
    assert [len(lab.written(key, "runs")) for key in keys] == [1] * 31


def with_persistence(folder: Path) -> OwnServer:
    server = OwnServer(folder)
    server.process.command = [part for part in server.process.command if part not in {"--appendonly", "no"}]
    server.process.command += ["--appendonly", "yes", "--appendfsync", "always"]
    return server


def test_delays_outlast_workers_and_a_restart_of_redis(make_lab: MakeLab, tmp_path: Path) -> None:
    server = with_persistence(tmp_path / "redis")
    server.start()
    try:
        lab = make_lab(broker=server.url, store=server.url, laravel_durable_delay=1)
        with lab.worker(app=APP) as worker:
            keys = [lab.send("bare", "return:x", countdown=5)[1] for _ in range(20)]
            worker.kill()
            server.process.kill()
            server.start()
            assert lab.bus.delayed.count() == 20
            worker.restart()
            for key in keys:
                lab.wait_for(key, "runs")
            assert lab.send("bare", "return:x")[0].get(timeout=30) == "x"
        assert [len(lab.written(key, "runs")) for key in keys] == [1] * 20
    finally:
        server.stop()


@pytest.mark.rabbitmq
def test_a_worker_goes_on_once_the_store_is_back(make_lab: MakeLab, tmp_path: Path) -> None:
    """Meanwhile it works what needs no store."""
    server = with_persistence(tmp_path / "redis")
    server.start()
    try:
        lab = make_lab(broker="rabbitmq", store=server.url, laravel_durable_delay=1)
        with lab.worker(app=APP) as worker:
            result, _ = lab.send("bare", "return:x", countdown=2)
            server.stop()
            worker.wait_for_log("Delayed jobs cannot be moved to their queues")
            assert lab.send("bare", "return:meanwhile")[0].get(timeout=30) == "meanwhile"
            server.start()
            assert result.get(timeout=30) == "x"
            worker.wait_for_log("Delayed jobs are moved to their queues again")
    finally:
        server.stop()


def kill_movers_at_random(lab: Lab, *, kills: int, is_done: Any) -> None:
    """Two workers that serve another queue, and so do nothing but move, killed again and again; the last ones live."""
    dice = random.Random()
    with ExitStack() as stack:
        movers = [
            stack.enter_context(lab.worker("-Q", f"nothing-{lab.places['queue']}", app=APP, pool="solo"))
            for _ in range(2)
        ]
        for number in range(kills):
            pause = time.monotonic() + dice.uniform(0, 0.5)
            wait_until(lambda pause=pause: time.monotonic() >= pause, 5)  # type: ignore[misc]
            movers[number % 2].kill()
            movers[number % 2].restart()
        wait_until(is_done, 60)


def delivered(lab: Lab) -> Counter[str]:
    """The ids of all messages in the lab's queue, which are taken out."""
    found: Counter[str] = Counter()
    with lab.app.connection_for_read() as connection:
        queue = Queue(lab.places["queue"], Exchange(""), lab.places["queue"])(connection.default_channel)
        queue.queue_declare()
        while (message := queue.get(no_ack=True)) is not None:
            found[message.headers["id"]] += 1
    return found


def test_no_delayed_job_is_lost_or_doubled_when_movers_are_killed(make_lab: MakeLab) -> None:
    lab = make_lab(laravel_durable_delay=0.1)
    ids = {lab.send("bare", countdown=1 + number / 100)[0].id for number in range(400)}
    kill_movers_at_random(lab, kills=3, is_done=lambda: lab.bus.delayed.count() == 0)
    assert delivered(lab) == dict.fromkeys(ids, 1)


@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    "store", ["redis", pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.slow])]
)
def test_no_delayed_job_is_lost_on_rabbitmq_when_movers_are_killed(make_lab: MakeLab, store: str) -> None:
    """A mover that dies between publishing and removing has some of what it had claimed sent twice, and no other."""
    lab = make_lab(broker="rabbitmq", store=store, laravel_durable_delay=0.1)
    if store == "postgresql":
        store_of(lab.app).migrate()  # type: ignore[attr-defined]  # the tables of SQL stores alone
    kills, claimed_at_once = 3, 10
    ids = {lab.send("bare", countdown=1 + number / 50)[0].id for number in range(400)}
    kill_movers_at_random(lab, kills=kills, is_done=lambda: lab.bus.delayed.count() == 0)
    found = delivered(lab)
    assert found.keys() == ids
    assert sum(found.values()) - len(ids) <= kills * claimed_at_once
    store_of(lab.app).close()
