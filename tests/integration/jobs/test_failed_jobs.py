"""A failed job's record is all that is needed to run it again."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord
from celery.utils import uuid

from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import Lab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.matrix,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]


def recorded(lab: Lab, job_id: str) -> Any:
    return wait_until(lambda: lab.bus.failed.find(job_id))


def recorded_and_stored(lab: Lab, job_id: str) -> Any:
    """The record of a job that failed at once, when its failure is stored too: a retry may run into the storing."""
    wait_until(lambda: lab.app.AsyncResult(job_id).state == "FAILURE")
    return recorded(lab, job_id)


@pytest.mark.parametrize(
    ("value", "serializer"),
    [
        ({"a": [1, 2.5, None, "ü"]}, "json"),
        (datetime(2030, 1, 2, tzinfo=timezone.utc), "json"),
        ({1, 2}, "pickle"),
        (timedelta(3), "pickle"),
        (b"\x00\xff", "pickle"),
    ],
    ids=repr,
)
def test_arguments_headers_and_serializer_come_again(lab: Lab, value: Any, serializer: str) -> None:
    key = uuid()
    task = lab.app.tasks["breaks"]
    result = task.apply_async(
        (key, value), {"more": value}, serializer=serializer, headers={"mine": "h"}, compression="zlib"
    )
    record = recorded(lab, result.id)
    assert record.args_repr
    assert lab.bus.failed.retry(result.id) == 1
    first, second = lab.wait_for(key, "runs", 2)
    assert second == first
    assert second[2:] == [1, "h"]
    wait_until(lambda: lab.app.AsyncResult(result.id).state == "SUCCESS")
    assert lab.bus.failed.find(result.id) is None


def test_a_retried_job_keeps_its_queue_and_the_rest_of_its_chain(lab: Lab) -> None:
    key = uuid()
    queue = f"other-{lab.places['queue']}"
    first = lab.sig("tries1", "raise:x", "return:1", key=key).set(queue=queue)
    result = chain(first, lab.sig("plain", "return:after", key=f"{key}-after")).apply_async()
    record = recorded_and_stored(lab, result.parent.id)
    assert record.queue == queue
    lab.bus.failed.retry(record.id)
    wait_until(
        lambda: lab.app.AsyncResult(result.id).state == "SUCCESS"
    )  # Celery had marked it as failed with its head
    assert lab.attempts(f"{key}-after") == [1]
    assert [run["queue"] for run in lab.written(key, "runs")] == [queue, queue]


def test_a_retried_job_calls_its_links(lab: Lab) -> None:
    key = uuid()
    result, _ = lab.send("tries1", "raise:x", "return:5", link=lab.app.tasks["note"].s(key))
    recorded(lab, result.id)
    lab.bus.failed.retry(result.id)
    assert lab.wait_for(key, "notes") == [["'5'"]]


def test_a_retried_member_of_a_chord_is_sent(lab: Lab) -> None:
    key = uuid()
    chord([lab.sig("tries1", "raise:x", "return:5", key=key)], lab.app.tasks["total"].s(key)).apply_async()
    job_id = lab.wait_for(key, "runs")[0]["id"]
    recorded(lab, job_id)
    lab.bus.failed.retry(job_id)
    assert lab.wait_for(key, "runs", 2)[1]["attempt"] == 1


def test_a_retry_that_fails_again_leaves_a_new_record(lab: Lab) -> None:
    result, key = lab.send("tries3", "raise:a", "raise:b", "raise:c", "raise:d", "raise:e", "raise:f")
    assert recorded(lab, result.id).exception == "OSError: c"
    lab.bus.failed.retry(result.id)
    wait_until(lambda: recorded(lab, result.id).exception == "OSError: f")
    assert lab.attempts(key) == [1, 2, 3, 1, 2, 3]


def test_an_expired_jobs_record_can_be_retried(lab: Lab) -> None:
    result, key = lab.send("tries1", "raise:x", "return:done", expires=1)
    recorded_and_stored(lab, result.id)
    wait_until(lambda: datetime.now(timezone.utc).timestamp() - lab.written(key, "runs")[0]["at"] > 1.1)
    lab.bus.failed.retry(result.id)
    wait_until(lambda: lab.app.AsyncResult(result.id).state == "SUCCESS")


def test_a_deadline_starts_anew(lab: Lab) -> None:
    result, key = lab.send("until", "raise:x")
    runs = len(recorded(lab, result.id) and lab.attempts(key))
    lab.bus.failed.retry(result.id)
    attempts = lab.wait_for(key, "runs", runs + 2)
    assert [run["attempt"] for run in attempts[runs : runs + 2]] == [1, 2]


def test_all_of_a_queue_are_retried(lab: Lab) -> None:
    queue = f"other-{lab.places['queue']}"  # where no other test's jobs fail
    sent = [lab.send("tries1", "raise:x", "return:done", queue=queue) for _ in range(3)]
    for result, _ in sent:
        recorded_and_stored(lab, result.id)
    records = lab.bus.failed.all(queue)
    assert {record.id for record in records} == {result.id for result, _ in sent}
    assert [record.failed_at for record in records] == sorted((r.failed_at for r in records), reverse=True)
    assert lab.bus.failed.all(queue, limit=1) == records[:1]
    assert lab.bus.failed.retry("all", queue="nobody's") == 0
    assert lab.bus.failed.retry("all", queue=queue) == 3
    for result, _ in sent:
        wait_until(lambda result=result: lab.app.AsyncResult(result.id).state == "SUCCESS")  # type: ignore[misc]
    assert lab.bus.failed.count(queue) == 0


def test_records_may_be_forgotten(lab: Lab) -> None:
    result, _ = lab.send("tries1", "raise:x")
    recorded(lab, result.id)
    assert lab.bus.failed.forget(result.id)
    assert not lab.bus.failed.forget(result.id)
    assert lab.bus.failed.retry(result.id) == 0


def test_a_plain_task_leaves_no_record(lab: Lab) -> None:
    result, _ = lab.send("bare", "raise:x")
    wait_until(lambda: result.state == "FAILURE")
    assert lab.send("bare", "return:x")[0].get(timeout=30) == "x"
    assert lab.bus.failed.find(result.id) is None


def test_a_failed_member_with_arguments_only_pickle_can_carry_is_recorded(lab: Lab) -> None:
    key = uuid()
    member = lab.app.tasks["breaks"].si(key, {1, 2}).set(serializer="pickle")
    plain = lab.app.tasks["bare"].si(uuid(), ["release", "raise:x", "return:x"], {3}).set(serializer="pickle")
    finished = lab.bus.batch([member, plain]).allow_failures().dispatch().wait(timeout=30)
    assert finished.failed_jobs == 2
    for job_id in finished.failed_job_ids:
        recorded(lab, job_id)
    assert finished.retry().failed_jobs == 0, "nor does either fail again"


def test_whoever_asks_for_the_result_waits_for_the_new_attempt(lab: Lab) -> None:
    result, key = lab.send("tries1", "raise:ValueError", "wait+return:mended")
    assert isinstance(result.get(timeout=30, propagate=False), OSError)
    recorded(lab, result.id)
    assert lab.bus.failed.retry(result.id) == 1
    lab.wait_for(key, "runs", 2)
    assert not lab.app.AsyncResult(result.id).ready()
    lab.go_on(key)
    assert lab.app.AsyncResult(result.id).get(timeout=30) == "mended"
