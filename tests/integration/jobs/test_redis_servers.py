"""A worker whose store and broker are one Redis over TLS, or behind Sentinel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery.utils import uuid

from celery_laravel.testing.processes import wait_until
from tests.stores.redis_servers import own_sentinel, own_tls_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.jobs.conftest import Lab, MakeLab
    from tests.stores.redis_servers import OwnServer

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]


def check(lab: Lab) -> None:
    """Counted attempts, a batch and its callback, a record of a failure."""
    done, done_key = lab.send("tries3", "raise:x", "release", "return:done")
    failed, _ = lab.send("tries1", "raise:no")
    notes = uuid()
    jobs = [lab.sig("tries3", "return:x", key=uuid()) for _ in range(3)]
    batch = lab.bus.batch(jobs).then(lab.app.tasks["note"].s("then", notes)).dispatch()
    assert done.get(timeout=30) == "done"
    assert lab.attempts(done_key) == [1, 2, 3]
    assert batch.wait(timeout=30).pending_jobs == 0
    assert len(lab.wait_for(notes, "notes")) == 1
    assert wait_until(lambda: lab.bus.failed.find(failed.id)).exception == "OSError: no"


def test_over_tls(make_lab: MakeLab, tmp_path: Path) -> None:
    with own_tls_server(tmp_path / "redis") as (port, certificate):
        url = f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={certificate}"
        lab = make_lab(broker=url, store=url)
        with lab.worker():
            check(lab)


def test_a_worker_goes_on_with_the_replica_that_takes_over(make_lab: MakeLab, tmp_path: Path) -> None:
    """A job that runs meanwhile ends as if nothing had been; what waits has been replicated, and runs."""
    with own_sentinel(tmp_path) as (master, replica, sentinel), replica.client() as copy:
        url = f"sentinel://127.0.0.1:{sentinel.port}/0"
        options = {"master_name": "mymaster", "visibility_timeout": 3, "unacked_restore_interval": 1}
        lab = make_lab(broker=url, store=f"{url}?master_name=mymaster", broker_transport_options=options)
        with lab.worker(concurrency=1) as worker:
            check(lab)
            running, key = lab.send("tries3", "wait:60+return:done")
            lab.wait_for(key, "runs")
            waiting, waiting_key = lab.send("tries1", "return:waited")
            wait_until(lambda: copy.info("replication")["slave_repl_offset"] >= offset_of(master))
            master.process.kill()
            wait_until(lambda: copy.info("replication")["role"] == "master")
            lab.go_on(key)
            assert running.get(timeout=60) == "done"
            assert waiting.get(timeout=60) == "waited"
            check(lab)
            assert (lab.attempts(key), lab.attempts(waiting_key)) == ([1], [1])
            assert worker.is_running


def offset_of(master: OwnServer) -> int:
    with master.client() as client:
        return int(client.info("replication")["master_repl_offset"])
