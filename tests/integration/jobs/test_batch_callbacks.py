"""Callbacks of batches that come before the first job, with each job, or late: worked by a real worker."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from celery.utils import uuid

from celery_laravel.runtime import runtime_of
from celery_laravel.stores.records import MemberEnd, MemberState, NewBatch
from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]


def notes(lab: Lab, key: str, count: int) -> list[list[str]]:
    """What callbacks wrote, once as many have and another job has gone through since."""
    lab.wait_for(key, "notes", count)
    assert lab.send("plain", "return:x")[0].get(timeout=30) == "x"
    return [[part.strip("'") for part in note[::-1]] for note in lab.written(key, "notes")]


def test_before_comes_first_and_progress_once_for_each_success(lab: Lab) -> None:
    key, note = uuid(), lab.app.tasks["note"]
    members = [lab.sig("tries3", script, key=uuid()) for script in ("return:x", "release", "return:x")]
    members[1] = lab.sig("tries3", "release", "raise", "return:x", key=uuid())
    pending = lab.bus.batch([*members, lab.sig("tries1", "raise:no", key=uuid())]).before(note.s("before", key))
    pending.progress(note.s("progress", key)).progress(note.s("also", key)).allow_failures(note.s("failed", key))
    batch = pending.dispatch().wait(timeout=30)
    seen = notes(lab, key, 8)
    kinds = [kind for kind, *_ in seen]
    assert kinds[0] == "before"
    assert sorted(kinds) == ["also"] * 3 + ["before", "failed"] + ["progress"] * 3
    assert next(rest[0] for kind, *rest in seen if kind == "failed") == "OSError('no')"
    assert (batch.failed_jobs, batch.cancelled) == (1, False)
    assert not [mark for record, mark in runtime_of(lab.app).store.batches.due(older_than=timedelta(0))]


def test_what_is_owed_for_members_is_sent_by_any_worker_and_runs_once(lab: Lab) -> None:
    """As when whoever created the batch, or counted its members, is killed before it can send what became due."""
    key, store, note = uuid(), runtime_of(lab.app).store, lab.app.tasks["note"]
    kinds = ("before", "progress", "failure")
    callbacks = {kind: [dict(note.s(kind, key))] for kind in kinds}
    store.batches.create(NewBatch(key, callbacks=callbacks, allows_failures=True))
    store.batches.add(key, 3)
    ends = [MemberEnd(key, index, f"job-{index}", MemberState.SUCCEEDED) for index in (0, 1)]
    error = {"module": "builtins", "class": "OSError", "args": ["lost"], "message": "lost"}
    ends.append(MemberEnd(key, 2, "job-2", MemberState.FAILED, exception=error))
    changes = [store.batches.end_member(end) for end in ends]

    lab.wait_for(key, "notes", 4)
    wait_until(lambda: not store.batches.due(older_than=timedelta(0)))
    for change in changes:  # twice, as after a crash before the mark was cleared
        assert change is not None
        runtime_of(lab.app).callbacks.send(change.batch, change.due)
    seen = notes(lab, key, 4)
    assert sorted(kind for kind, *_ in seen) == ["before", "failure", "progress", "progress"]
    assert next(rest[0] for kind, *rest in seen if kind == "failure") == "OSError('lost')"


def test_a_member_that_fails_again_is_told_again(lab: Lab) -> None:
    key, note = uuid(), lab.app.tasks["note"]
    member = lab.sig("tries1", "raise:once", "raise:twice", "return:x", key=uuid())
    batch = lab.bus.batch([member]).allow_failures(note.s("failed", key)).progress(note.s("done", key)).dispatch()
    batch.wait(timeout=30)
    for told in (1, 2):
        notes(lab, key, told)  # they are messages of their own, which may overtake each other
        batch.retry()
        batch.wait(timeout=30)
    seen = notes(lab, key, 3)
    assert [(kind, *rest[:-1]) for kind, *rest in seen] == [
        ("failed", "OSError('once')"),
        ("failed", "OSError('twice')"),
        ("done",),
    ]


def test_a_callback_that_loses_its_worker_each_time_is_started_three_times(make_lab: MakeLab) -> None:
    lab = make_lab()
    key = uuid()
    with lab.worker(concurrency=1) as worker:
        batch = (
            lab.bus.batch([lab.sig("plain", "return:x", key=uuid())]).then(lab.sig("bare", "die", key=key)).dispatch()
        )
        wait_until(lambda: lab.bus.failed.find(f"{batch.id}:then:0"), timeout=60)
        assert worker.is_running
        record = lab.bus.failed.find(f"{batch.id}:then:0")
    assert record is not None
    assert "has lost its worker 3 times" in record.exception
    assert lab.attempts(key) == [1, 2, 3]
