"""Jobs that are dispatched to another broker than the dispatcher's own, worked by a real worker there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery.utils import uuid

from celery_laravel import Bus
from tests.support.jobs_app import make_app

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.jobs.conftest import MakeLab

pytestmark = pytest.mark.redis


def test_what_follows_from_a_job_stays_with_the_broker_it_was_sent_to(make_lab: MakeLab, tmp_path: Path) -> None:
    """Its releases and retries, the steps behind it, the members it adds, and the callbacks of its batch."""
    url = f"database+sqlite:///{tmp_path}/broker.db"
    there = make_lab(broker=url, laravel_connections={"there": url})
    client = make_app(**{**there.places, "broker": there.places["record"]}, **there.conf)
    bus, tasks = Bus(client), client.tasks
    keys = [uuid() for _ in range(6)]
    with there.worker("-c", "1"):
        tasks["tries3"].apply_async((keys[0], ["release", "raise", "return:x"]), connection_name="there").get(
            timeout=30
        )
        steps = [
            tasks["tries3"].si(keys[1], ["release+return:x", "return:x"]),
            tasks["plain"].si(keys[2], ["return:y"]),
        ]
        assert bus.chain(steps).on_connection("there").dispatch().get(timeout=30) == "y"
        failing = tasks["tries1"].si(keys[3], ["raise:no"])
        bus.chain([failing, steps[0]]).catch(tasks["note"].s("caught", keys[4])).on_connection("there").dispatch()
        adding = tasks["plain"].si(keys[3], [f"add:{uuid()}"])
        pending = bus.batch([adding, [tasks["plain"].si(uuid(), ["return:1"]), steps[1]]]).on_connection("there")
        for kind in ("before", "progress", "then", "finally_"):
            getattr(pending, kind)(tasks["note"].s(kind, keys[5]))
        batch = pending.dispatch().wait(timeout=30)
        assert (batch.total_jobs, batch.failed_jobs) == (4, 0)
        assert len(there.wait_for(keys[5], "notes", 7)) == 7
        there.wait_for(keys[4], "notes")
        (record,) = bus.failed.all()
        assert (record.connection, bus.failed.retry(record.id)) == ("there", 1)
        there.wait_for(keys[3], "runs", 3)
    assert there.attempts(keys[0]) == [1, 2, 3]
    with client.connection_for_read() as connection:
        assert connection.default_channel.client.llen(f"{there.places['queue']}:{there.places['queue']}") == 0
    client.close()
