"""Chains with ``catch``: whichever step fails and however, it is caught once, and nothing after it runs."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, group
from celery.utils import uuid

from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import Lab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]


def note(lab: Lab, key: str) -> Any:
    return lab.app.tasks["note"].s(key)


def settled(lab: Lab, key: str) -> list[Any]:
    """What was caught, once nothing more can come: a later job of the same worker has run."""
    lab.wait_for(key, "notes")
    lab.app.tasks["plain"].si(f"{key}-later", ["return:x"]).apply_async().get(timeout=30)
    return lab.written(key, "notes")


FAILURES = [
    ("tries1", ["raise:no luck"], "OSError('no luck')"),
    ("tries3", ["raise:no luck"], "OSError('no luck')"),
    ("tries3", ["fail:by hand"], "ManuallyFailedError('by hand')"),
    ("plain", ["raise:no luck"], "OSError('no luck')"),
    ("bare", ["raise:no luck"], "OSError('no luck')"),
    ("tries1", ["die"], "MaxAttemptsExceededError"),
    ("bare", ["die"], "MaxAttemptsExceededError"),
]


@pytest.mark.parametrize(("task", "script", "caught"), FAILURES, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize(
    "position", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_whichever_step_fails_and_however_it_is_caught_once(
    lab: Lab, task: str, script: list[str], caught: str, position: int
) -> None:
    key = uuid()
    steps = [lab.sig("plain", "return:x", key=f"{key}-{number}") for number in range(3)]
    steps[position] = lab.sig(task, *script, key=f"{key}-{position}")

    lab.bus.chain(steps).catch(note(lab, key)).dispatch()

    (values,) = settled(lab, key)
    assert values[0].startswith(caught), values
    assert [len(lab.attempts(f"{key}-{number}")) > 0 for number in range(3)] == [n <= position for n in range(3)]


@pytest.mark.parametrize("task", ["tries3", "plain", "bare"])
def test_a_step_whose_next_one_cannot_be_sent_is_caught(lab: Lab, task: str) -> None:
    """Its own code has succeeded: the next one's arguments do not fit, as Celery finds out when it sends that."""
    key, job_id = uuid(), uuid()
    first = lab.sig(task, "return:x", key=f"{key}-0").set(task_id=job_id)
    misfit = lab.app.tasks["total"].s("one", "too many")

    lab.bus.chain([first, misfit, lab.sig("plain", "return:x", key=f"{key}-2")]).catch(note(lab, key)).dispatch()

    (values,) = settled(lab, key)
    assert values[0].startswith("TypeError('total() takes 2 positional arguments"), values
    assert lab.attempts(f"{key}-2") == []
    assert wait_until(lambda: lab.bus.failed.find(job_id)).exception.startswith("TypeError")


def test_in_a_batch_it_is_a_failure_and_leaves_nothing_pending(lab: Lab) -> None:
    key = uuid()
    steps = [lab.sig("bare", "return:x", key=key), lab.app.tasks["total"].s("one", "too many"), note(lab, key)]

    batch = lab.bus.batch([steps]).dispatch().wait(timeout=60)

    assert (batch.total_jobs, batch.failed_jobs, batch.pending_jobs) == (3, 1, 0)
    assert lab.attempts(key) == [1]


def test_a_hard_time_limit_is_caught_once(lab: Lab) -> None:
    key = uuid()
    slow = lab.sig("tries1", "wait:60", key=f"{key}-0").set(time_limit=1)

    lab.bus.chain([slow, lab.sig("plain", "return:x", key=f"{key}-1")]).catch(note(lab, key)).dispatch()

    (values,) = settled(lab, key)
    assert values[0].startswith("TimeLimitExceeded"), values
    assert lab.attempts(f"{key}-1") == []


def test_a_revoked_step_is_caught(lab: Lab) -> None:
    key = uuid()
    steps = [
        lab.sig("plain", "wait:60", key=f"{key}-0"),
        lab.sig("plain", "return:x", key=f"{key}-1"),
        lab.sig("plain", "return:x", key=f"{key}-2"),
    ]
    result = lab.bus.chain(steps).catch(note(lab, key)).dispatch()
    lab.wait_for(f"{key}-0", "runs")

    result.parent.revoke()
    wait_until(
        lambda: any(result.parent.id in ids for ids in (lab.app.control.inspect().revoked() or {}).values()),
        30,
        message="the worker knows of it",
    )
    lab.go_on(f"{key}-0")

    (values,) = settled(lab, key)
    assert values[0].startswith("TaskRevokedError"), values
    assert lab.attempts(f"{key}-1") == lab.attempts(f"{key}-2") == []


def test_a_step_that_has_expired_is_caught(lab: Lab) -> None:
    key = uuid()
    expired = lab.sig("plain", "return:x", key=f"{key}-0").set(
        expires=datetime.now(timezone.utc) - timedelta(seconds=10)
    )

    lab.bus.chain([expired, lab.sig("plain", "return:x", key=f"{key}-1")]).catch(note(lab, key)).dispatch()

    (values,) = settled(lab, key)
    assert values[0].startswith("TaskRevokedError"), values
    assert lab.attempts(f"{key}-0") == lab.attempts(f"{key}-1") == []


def test_members_of_a_group_that_fail_together_are_caught_once(lab: Lab) -> None:
    key = uuid()
    members = group(lab.sig("tries1", f"raise:{n}", key=f"{key}-{n}") for n in range(4))
    steps = [lab.sig("plain", "return:x", key=f"{key}-first"), members, lab.sig("plain", "return:x", key=f"{key}-last")]

    lab.bus.chain(steps).catch(note(lab, key)).dispatch()

    for number in range(4):
        lab.wait_for(f"{key}-{number}", "failed")
    (values,) = settled(lab, key)
    assert values[0].startswith("OSError"), values
    assert lab.attempts(f"{key}-last") == []


def test_a_chords_body_that_fails_is_caught(lab: Lab) -> None:
    key = uuid()
    members = group(lab.sig("plain", "return:x", key=f"{key}-{n}") for n in range(2))

    lab.bus.chain([members, lab.sig("tries1", "raise:body", key=f"{key}-body")]).catch(note(lab, key)).dispatch()

    (values,) = settled(lab, key)
    assert values[0] == "OSError('body')"


def test_several_callbacks_are_called_each(lab: Lab) -> None:
    key = uuid()

    lab.bus.chain([lab.sig("tries1", "raise:x", key=f"{key}-0")]).catch(note(lab, key)).catch(note(lab, key)).dispatch()

    lab.wait_for(key, "notes", 2)
    assert len(settled(lab, key)) == 2


def test_a_step_that_is_retried_goes_on_with_its_chain_and_is_caught_again_if_it_fails_again(lab: Lab) -> None:
    key = uuid()
    steps = [
        lab.sig("tries1", "raise:first", "raise:second", "return:x", key=f"{key}-0"),
        lab.sig("tries1", "raise:third", "return:x", key=f"{key}-1"),
    ]
    result = lab.bus.chain(steps).catch(note(lab, key)).dispatch()

    for failure, failed in enumerate([result.parent.id, result.parent.id, result.id], 1):
        lab.wait_for(key, "notes", failure)
        wait_until(partial(lab.bus.failed.find, failed), 30, message="the record")
        lab.bus.failed.retry(failed)

    wait_until(lambda: lab.app.AsyncResult(result.id).successful(), 30)  # it has the failure until it is run again
    assert lab.app.AsyncResult(result.id).get(timeout=30) == "x"
    assert sorted(values[0] for values in settled(lab, key)) == [
        "OSError('first')",
        "OSError('second')",
        "OSError('third')",
    ]


def test_a_chain_that_succeeds_calls_nobody_and_gives_the_last_result(lab: Lab) -> None:
    key = uuid()
    steps = [lab.sig("tries3", "release", "return:x", key=f"{key}-0"), lab.sig("plain", "return:last", key=f"{key}-1")]

    result = lab.bus.chain(steps).catch(note(lab, key)).dispatch()

    assert result.get(timeout=30) == "last"
    assert result.parent.id
    assert lab.written(key, "notes") == []


def test_a_chain_goes_to_its_queue_save_for_steps_with_their_own(lab: Lab) -> None:
    key, other = uuid(), f"other-{lab.places['queue']}"
    steps = [
        lab.sig("plain", "return:x", key=f"{key}-0"),
        lab.sig("plain", "return:x", key=f"{key}-1").set(queue=lab.places["queue"]),
    ]

    lab.bus.chain(steps).on_queue(other).dispatch().get(timeout=30)

    queues = [lab.written(f"{key}-{number}", "runs")[0]["queue"] for number in range(2)]
    assert queues == [other, lab.places["queue"]]


def test_a_chain_waits_before_its_first_step(lab: Lab) -> None:
    key, before = uuid(), time.time()

    lab.bus.chain([lab.sig("plain", "return:x", key=key)]).delay(1.5).dispatch().get(timeout=30)

    assert lab.written(key, "runs")[0]["at"] - before >= 1.4


def test_a_running_step_changes_what_follows(lab: Lab) -> None:
    key = uuid()
    steps = [
        lab.sig("tries3", "raise:not yet", "prepend:before+prepend:first+append:last", key=f"{key}-0"),
        lab.sig("plain", "return:x", key=f"{key}-1"),
    ]

    lab.bus.chain(steps).dispatch()

    lab.wait_for(f"{key}-0:last", "runs")
    at = {
        name: [run["at"] for run in lab.written(f"{key}{name}", "runs")]
        for name in ("-0:first", "-0:before", "-1", "-0:last")
    }
    assert [len(times) for times in at.values()] == [1, 1, 1, 1]
    assert sorted(at, key=at.__getitem__) == list(at)


def test_what_a_step_adds_is_caught_too_and_counts_in_its_batch(lab: Lab) -> None:
    key = uuid()
    batch = lab.bus.batch([[lab.sig("tries3", "prepend:added", key=f"{key}-0"), lab.sig("plain", "return:x", key=key)]])
    ended = batch.dispatch()
    lab.bus.chain([lab.sig("tries3", "prepend_failing:bad", key=f"{key}-c")]).catch(note(lab, f"{key}-c")).dispatch()

    ended.wait(timeout=30)
    (values,) = settled(lab, f"{key}-c")
    assert (ended.fresh().total_jobs, ended.fresh().processed_jobs) == (3, 3)
    assert values[0] == "OSError('added')"


def test_celerys_own_chain_keeps_its_errback(lab: Lab) -> None:
    key = uuid()
    steps = chain(lab.sig("tries1", "raise:x", key=f"{key}-0"), lab.sig("plain", "return:x", key=f"{key}-1"))

    steps.apply_async(link_error=lab.app.tasks["note"].si("errback", key))

    assert lab.wait_for(key, "notes") == [["'errback'"]]
