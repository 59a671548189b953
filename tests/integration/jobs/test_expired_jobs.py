"""Jobs that expire in the queue of a broker that would drop their messages by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery.exceptions import TaskRevokedError
from celery.utils import uuid
from kombu import Connection

from celery_laravel.testing.processes import wait_until
from tests.support import unique_app

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import MakeLab

pytestmark = [pytest.mark.redis, pytest.mark.rabbitmq]


def test_rabbitmq_drops_no_expired_job_that_something_waits_for(make_lab: MakeLab) -> None:
    lab = make_lab(broker="rabbitmq", broker_transport_options={"confirm_publish": True})
    unique_app.declare(lab.app)
    key = uuid()
    unique = lab.app.tasks["once"].apply_async((key, 1), expires=0.2)
    member = lab.sig("plain", "return:never", key=uuid()).set(expires=0.2)
    batch = lab.bus.batch([member]).allow_failures().dispatch()
    chain = lab.bus.chain([member.clone()]).catch(lab.app.tasks["note"].s(key)).dispatch()
    plain = member.clone().set(queue=f"other-{lab.places['queue']}")
    plain.apply_async()
    with Connection(lab.places["broker"]) as connection:
        declare = connection.default_channel.queue_declare

        def waiting(queue: str) -> int:
            return int(declare(queue, passive=True).message_count)

        wait_until(lambda: waiting(plain.options["queue"]) == 0, 10, message="the end of a plain message")
        assert waiting(lab.places["queue"]) == 3
    with lab.worker(app="tests.support.unique_app"):
        for result in (unique, chain):
            with pytest.raises(TaskRevokedError):
                result.get(timeout=30)
        assert batch.wait(timeout=30).failed_jobs == 1
        lab.wait_for(key, "notes")
        assert not lab.bus.locks.find(f"unique:once:{key}")
    assert lab.written(key, "runs") == []
