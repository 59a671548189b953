"""What a worker says, as it starts, of jobs that its broker does not wait for."""

from __future__ import annotations

import re

from tests.integration.jobs.conftest import MakeLab


def test_a_worker_names_the_jobs_that_kombus_redis_does_not_wait_for(make_lab: MakeLab) -> None:
    lab = make_lab(laravel_safe_redis=False, laravel_timeout=900)
    lab.conf["broker_transport_options"] = {**lab.app.conf.broker_transport_options, "visibility_timeout": 600}
    with lab.worker() as worker:
        worker.wait_for_log("Set visibility_timeout in broker_transport_options to more than 900.")
        log = worker.log_text()
    (start,) = re.findall(
        r"^.*The broker delivers a job again after 600 s \(visibility_timeout\).*$", log, re.MULTILINE
    )
    assert "WARNING" in start
    lines = log[log.index(start) :].splitlines()[1:]
    named = lines[: next(number for number, line in enumerate(lines) if not line.startswith("  "))]
    assert "  tries3 (900 s)" in named
    assert "  plain (900 s, when it is in a batch, or a chain with catch)" in named
    assert not [line for line in named if line.startswith("  timeout")], "they have a timeout of their own, of a second"
    assert not [line for line in named if line.strip().startswith(("celery.", "celery_laravel."))]


def test_a_worker_that_renews_what_it_holds_says_nothing_of_them(make_lab: MakeLab) -> None:
    lab = make_lab(laravel_timeout=900)
    with lab.worker() as worker:
        assert "delivers a job again" not in worker.log_text()
