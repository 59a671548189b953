"""On each broker: jobs that kill what runs them are failed at pick-up, and a redeployment costs no attempt."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from celery_laravel import MaxAttemptsExceededError
from celery_laravel.transport.database.migrating import migrate
from celery_laravel.transport.database.options import BrokerOptions

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

SHORT_LEASES = {"JOBS_LEASE": "2"}
"""For workers that are killed as a whole: nobody is left who ends the leases of their attempts, which last a minute."""

SLOW_RABBITMQ = [pytest.mark.rabbitmq, pytest.mark.slow]


QUICK = ("--without-mingle", "--without-gossip")


@pytest.fixture(
    params=[
        "redis",
        pytest.param("classic", marks=SLOW_RABBITMQ),
        pytest.param("quorum", marks=SLOW_RABBITMQ),
        pytest.param("sqlite", marks=pytest.mark.slow),
        pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.slow]),
    ]
)
def broker_lab(request: pytest.FixtureRequest) -> Lab:
    """A lab on each broker, with more prefetched than runs."""
    return on_broker(request.param, request)


@pytest.fixture(
    params=[
        pytest.param("classic", marks=pytest.mark.rabbitmq),
        pytest.param("quorum", marks=pytest.mark.rabbitmq),
        pytest.param("postgresql", marks=pytest.mark.postgresql),
    ]
)
def server_lab(request: pytest.FixtureRequest) -> Lab:
    """A lab on each broker on a server but Redis, on which whole workers are killed in other tests."""
    return on_broker(request.param, request)


def on_broker(kind: str, request: pytest.FixtureRequest) -> Lab:
    make_lab: MakeLab = request.getfixturevalue("make_lab")
    prefetch = {"worker_prefetch_multiplier": 4}
    if kind == "redis":
        return make_lab(**prefetch)
    if kind == "classic":
        return make_lab(broker="rabbitmq", **prefetch)
    if kind == "quorum":
        quorum = {"task_default_queue_type": "quorum", "worker_detect_quorum_queues": True}
        return make_lab(broker="rabbitmq", **quorum, **prefetch)
    url = f"database+sqlite:///{request.getfixturevalue('tmp_path')}/broker.db"
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql_url")
        migrate(BrokerOptions(server))
        url = f"database+{server}"
    return make_lab(broker=url, broker_transport_options={"visibility_timeout": 2}, **prefetch)


def test_the_jobs_of_a_worker_that_is_killed_come_back(server_lab: Lab) -> None:
    """The one that ran has used up an attempt, those that it had fetched have used up none."""
    lab = server_lab
    with lab.worker(*QUICK, concurrency=1, env=SHORT_LEASES) as worker:
        running, key = lab.send("tries3", "wait:60", "return:done")
        lab.wait_for(key, "runs")
        fetched, fetched_key = lab.send("tries1", "return:done")
        worker.wait_for_log(f"Task tries1[{fetched.id}] received")
        worker.kill()
        worker.restart()
        assert [result.get(timeout=40) for result in (running, fetched)] == ["done", "done"]
    assert (lab.attempts(key), lab.attempts(fetched_key)) == ([1, 2], [1])


def test_a_job_that_kills_its_process_or_its_worker_is_failed_after_its_tries(broker_lab: Lab) -> None:
    lab = broker_lab
    with lab.worker(env=SHORT_LEASES) as worker:
        died, died_key = lab.send("tries3", "die")
        lab.wait_for(died_key, "failed")  # by itself: the worker's end could keep it from writing down that it ran
        killed, killed_key = lab.send("tries3", "wait:60")
        for attempt in range(1, 4):
            lab.wait_for(killed_key, "runs", attempt)
            worker.kill()
            worker.restart()
        for result, key in ((died, died_key), (killed, killed_key)):
            with pytest.raises(
                MaxAttemptsExceededError, match=r"attempt 4 of 3\. The 3 attempts before lost their process"
            ):
                result.get(timeout=60)
            assert len(lab.wait_for(key, "failed")) == 1
            assert lab.attempts(key) == [1, 2, 3]
        assert lab.send("plain", "return:alive")[0].get(timeout=30) == "alive"
        assert lab.bus.failed.find(killed.id) is not None


SOFT = {"REMAP_SIGTERM": "SIGQUIT"}


@pytest.mark.parametrize(
    ("signum", "env", "conf", "attempts"),
    [
        pytest.param(signal.SIGTERM, {}, {}, [1], id="warm"),
        pytest.param(signal.SIGQUIT, {}, {}, [1, 2], id="cold", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, SOFT, {}, [1, 2], id="remapped", marks=pytest.mark.slow),
        pytest.param(
            signal.SIGTERM, SOFT, {"worker_soft_shutdown_timeout": 30.0}, [1], id="soft", marks=pytest.mark.slow
        ),
    ],
)
def test_jobs_that_a_stopped_worker_had_fetched_use_up_no_attempt(
    broker_lab: Lab, signum: int, env: dict[str, str], conf: dict[str, float], attempts: list[int]
) -> None:
    """The one that ran is ended in a warm and in a soft shutdown, and starts again after a cold one."""
    lab = broker_lab
    lab.conf.update(conf)
    with lab.worker(concurrency=1, env={**SHORT_LEASES, **env}) as worker:
        running, key = lab.send("tries3", "wait:60+return:done", "return:done")
        lab.wait_for(key, "runs")
        waiting = [lab.send("tries1", "return:done") for _ in range(3)]
        worker.wait_for_log(f"Task tries1[{waiting[-1][0].id}] received")
        worker.wait_until_active(lab.app)
        worker.send(signum)
        if attempts == [1]:
            worker.wait_for_log("Soft Shutdown" if conf else "Warm shutdown")
            lab.go_on(key)
        worker.process.wait(40)
        worker.restart()
        for result, _ in [(running, key), *waiting]:
            assert result.get(timeout=40) == "done"
    assert lab.attempts(key) == attempts
    assert [lab.attempts(key) for _, key in waiting] == [[1]] * 3
