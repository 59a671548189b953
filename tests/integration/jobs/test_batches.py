"""Batches, worked by a real worker."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group
from celery.utils import uuid

from celery_laravel import BatchFinishedError
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.records import MemberEnd, MemberState, NewBatch
from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from celery_laravel import Batch
    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.matrix,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]


class Watched:
    """A batch whose callbacks are counted."""

    def __init__(self, lab: Lab, jobs: Any, **options: Any) -> None:
        self.lab, self.key = lab, str(uuid())
        pending = lab.bus.batch(jobs).name("watched")
        for kind in ("then", "catch", "finally_"):
            pending = getattr(pending, kind)(lab.app.tasks["note"].s(kind, self.key))
        if options.get("allow_failures"):
            pending = pending.allow_failures()
        self.batch: Batch = pending.dispatch()

    def finished(self) -> Batch:
        return self.batch.wait(timeout=30)

    def called(self, count: int) -> list[str]:
        """The callbacks that were called, by kind, once as many are."""
        self.lab.wait_for(self.key, "notes", count)
        assert self.lab.send("plain", "return:x")[0].get(timeout=30) == "x"  # another job has gone through since
        return sorted(note[-1].strip("'") for note in self.lab.written(self.key, "notes"))

    def counts(self) -> tuple[int, int, int, int]:
        batch = self.finished()
        return batch.total_jobs, batch.pending_jobs, batch.failed_jobs, batch.skipped_jobs


def ok(lab: Lab, n: int = 1, task: str = "tries3") -> list[Any]:
    return [lab.sig(task, "return:x", key=uuid()) for _ in range(n)]


def test_every_job_succeeds(lab: Lab) -> None:
    watched = Watched(lab, (sig for sig in ok(lab, 20, "plain")))
    assert watched.counts() == (20, 0, 0, 0)
    assert watched.called(2) == ["finally_", "then"]
    batch = watched.finished()
    assert (batch.progress, batch.finished, batch.cancelled) == (100, True, False)


def test_a_callback_gets_the_batch_as_it_stands_and_catch_the_exception(lab: Lab) -> None:
    watched = Watched(lab, [lab.sig("tries1", "raise:no", key=uuid())])
    watched.called(2)
    catch = next(note for note in lab.written(watched.key, "notes") if "catch" in note[-1])
    assert "1 failed" in catch[0]
    assert catch[1].startswith("OSError('no'")


def test_a_failure_cancels_and_the_others_may_still_run(lab: Lab) -> None:
    watched = Watched(lab, [lab.sig("tries3", "raise:no", key=uuid()), *ok(lab, 3)])
    assert watched.counts() == (4, 0, 1, 0)
    assert watched.finished().cancelled
    assert watched.called(2) == ["catch", "finally_"]


def test_failures_may_be_allowed(lab: Lab) -> None:
    watched = Watched(
        lab, [*(lab.sig("plain", "raise:no", key=uuid()) for _ in range(3)), *ok(lab, 2)], allow_failures=True
    )
    assert watched.counts() == (5, 0, 3, 0)
    assert not watched.finished().cancelled
    assert watched.called(2) == ["catch", "finally_"]
    assert len(watched.finished().failed_job_ids) == 3


@pytest.mark.parametrize(
    "script", [["release", "return:x"], ["raise:x", "return:x"], ["delete+raise:x"], ["ignore"]], ids="-".join
)
@pytest.mark.parametrize("task", ["tries3", "plain"])
def test_a_member_counts_once_whatever_way_it_takes(lab: Lab, task: str, script: list[str]) -> None:
    watched = Watched(lab, [lab.sig(task, *script, key=uuid()), *ok(lab)])
    failed = task == "plain" and script[0] == "raise:x"
    assert watched.counts() == (2, 0, int(failed), 0)
    assert watched.called(2) == (["catch", "finally_"] if failed else ["finally_", "then"])


@pytest.mark.parametrize("task", ["celery_retry", "celery_autoretry"])
def test_a_member_that_celery_retries_counts_once(lab: Lab, task: str) -> None:
    step = "retry" if task == "celery_retry" else "raise:x"
    watched = Watched(
        lab, [lab.sig(task, step, "return:x", key=uuid()), lab.sig(task, step, key=uuid())], allow_failures=True
    )
    assert watched.counts() == (2, 0, 1, 0)


def test_a_rejected_member_has_failed(lab: Lab) -> None:
    assert Watched(lab, [lab.sig("plain", "reject", key=uuid())]).counts() == (1, 0, 1, 0)


def test_a_list_is_a_chain_whose_rest_never_runs_after_a_failure(lab: Lab) -> None:
    keys = [uuid() for _ in range(3)]
    steps = [
        lab.sig("tries3", script, key=key)
        for key, script in zip(keys, ["return:1", "raise:x", "return:3"], strict=True)
    ]
    watched = Watched(lab, [steps, ok(lab, 2)])
    assert watched.counts() == (5, 0, 1, 1)
    assert [len(lab.attempts(key)) for key in keys] == [1, 3, 0]


CANVASES = {
    "group": (lambda sigs: group(sigs[:3]), 3),
    "chord": (lambda sigs: chord(sigs[:2], sigs[2]), 3),
    "chain with a group": (lambda sigs: chain(sigs[0], group(sigs[1:3]), sigs[3]), 4),
    "list with a group": (lambda sigs: [sigs[0], group(sigs[1:3])], 3),
    "group of chains": (lambda sigs: group(chain(*sigs[:2]), chain(*sigs[2:4])), 4),
    "chord whose body is a chord before a group": (lambda sigs: _nested(sigs, sigs[0].app), 5),
    "chain with that": (lambda sigs: chain(sigs[3].clone(), _nested(sigs, sigs[0].app), app=sigs[0].app), 6),
}


def _nested(sigs: Any, app: Any) -> Any:
    body = chain(chord([sigs[1]], sigs[2], app=app), group(sigs[3], sigs[3].clone(), app=app), app=app)
    return chord([sigs[0]], body, app=app)


@pytest.mark.parametrize("canvas", CANVASES)
def test_each_task_of_a_canvas_counts_as_one_job(lab: Lab, canvas: str) -> None:
    make, count = CANVASES[canvas]
    watched = Watched(lab, [make([lab.sig("tries3", "release", "return:x", key=uuid()) for _ in range(4)])])
    assert watched.counts() == (count, 0, 0, 0)
    assert watched.called(2) == ["finally_", "then"]


@pytest.mark.parametrize("canvas", CANVASES)
def test_a_canvas_whose_first_task_fails_leaves_nothing_pending(lab: Lab, canvas: str) -> None:
    make, count = CANVASES[canvas]
    sigs = [lab.sig("tries1", "raise:x", key=uuid()), *ok(lab, 3)]
    watched = Watched(lab, [make(sigs)])
    total, pending, failed, _ = watched.counts()
    assert (total, pending, failed) == (count, 0, 1)
    assert watched.called(2) == ["catch", "finally_"]


def test_chunks_and_starmap_count(lab: Lab) -> None:
    note, key = lab.app.tasks["note"], uuid()
    watched = Watched(lab, [note.starmap([(1, key), (2, key)]), note.chunks([(n, key) for n in range(4)], 2).group()])
    assert watched.counts() == (3, 0, 0, 0)
    assert len(lab.written(key, "notes")) == 6


@pytest.mark.parametrize("task", ["plain", "tries3"])
@pytest.mark.parametrize(("how", "count"), [("replace:new", 1), ("replace_group", 3), ("replace_chain", 2)])
def test_a_member_may_be_replaced(lab: Lab, task: str, how: str, count: int) -> None:
    watched = Watched(lab, [lab.sig(task, "release", how, key=uuid()), *ok(lab)])
    assert watched.counts() == (1 + count, 0, 0, 0)
    assert watched.called(2) == ["finally_", "then"]


def test_a_job_may_add_jobs_to_its_batch(lab: Lab) -> None:
    added = uuid()
    watched = Watched(lab, [lab.sig("plain", f"add:{added}", key=uuid())])
    assert watched.counts() == (2, 0, 0, 0)
    assert lab.attempts(added) == [1]
    assert watched.called(2) == ["finally_", "then"]
    with pytest.raises(BatchFinishedError):
        watched.batch.add(ok(lab))


def test_a_job_may_cancel_its_batch(lab: Lab) -> None:
    watched = Watched(lab, [lab.sig("plain", "cancel", key=uuid()), *ok(lab)])
    assert watched.finished().cancelled


def test_a_job_may_start_a_batch(lab: Lab) -> None:
    batch_id = lab.app.tasks["batch_of"].delay(uuid(), 3).get(timeout=30)
    found = lab.bus.find_batch(batch_id)
    assert found is not None
    assert found.wait(timeout=30).total_jobs == 3


def test_retrying_failed_members_revives_the_batch_and_then_fires(lab: Lab) -> None:
    keys = [uuid(), uuid()]
    steps = [lab.sig("tries1", "raise:x", "return:now", key=keys[0]), lab.sig("plain", "return:after", key=keys[1])]
    watched = Watched(lab, [steps, *ok(lab)], allow_failures=True)
    assert watched.counts() == (3, 0, 1, 1)
    assert watched.called(2) == ["catch", "finally_"]
    wait_until(lambda: all(lab.bus.failed.find(job_id) for job_id in watched.finished().failed_job_ids))
    watched.finished().retry()
    assert watched.counts() == (3, 0, 0, 0)
    assert lab.attempts(keys[0]) == [1, 1]
    assert lab.attempts(keys[1]) == [1]
    assert watched.called(3) == ["catch", "finally_", "then"]


def test_watching_ends_with_the_finished_batch(lab: Lab) -> None:
    key = uuid()
    watched = Watched(lab, [lab.sig("plain", "wait", key=key), *ok(lab, 4)])
    seen = []
    for batch in watched.batch.watch():
        seen.append(batch.processed_jobs)
        assert batch.total_jobs == batch.pending_jobs + batch.processed_jobs
        if batch.processed_jobs == 4:
            lab.go_on(key)
    assert seen == sorted(seen)
    assert seen[-1] == 5


def test_watching_without_blocking_a_loop(lab: Lab) -> None:
    async def last(batch: Batch) -> Batch:
        async for snapshot in batch.awatch():
            latest = snapshot
        return latest

    assert asyncio.run(last(Watched(lab, ok(lab, 3)).batch)).finished


def test_waiting_gives_up_in_time(lab: Lab) -> None:
    key = uuid()
    watched = Watched(lab, [lab.sig("plain", "wait", key=key)])
    with pytest.raises(TimeoutError, match="watched"):
        watched.batch.wait(timeout=0.3)
    lab.go_on(key)
    assert watched.finished().finished


def test_an_empty_batch_is_finished_at_once(lab: Lab) -> None:
    watched = Watched(lab, [])
    assert watched.batch.finished
    assert watched.batch.progress == 100
    assert watched.called(2) == ["finally_", "then"]


def test_a_member_that_has_expired_does_not_leave_its_batch_waiting(lab: Lab) -> None:
    watched = Watched(
        lab, [lab.sig("plain", "return:never", key=uuid()).set(expires=-1), *ok(lab)], allow_failures=True
    )
    assert watched.counts()[:2] == (2, 0)


def was_told(lab: Lab, job_id: str) -> bool:
    """Whether a worker knows that a job is revoked."""
    return any(job_id in ids for ids in (lab.app.control.inspect().revoked() or {}).values())


@pytest.mark.parametrize("task", ["plain", "tries3", "bare"])
def test_a_member_that_is_revoked_before_a_worker_has_it_does_not_leave_its_batch_waiting(lab: Lab, task: str) -> None:
    """The worker hears of it while it consumes nothing."""
    queue, job_id, key = lab.places["queue"], uuid(), uuid()
    lab.app.control.cancel_consumer(queue, reply=True, timeout=5, limit=1)
    try:
        watched = Watched(
            lab, [lab.sig(task, "return:never", key=key).set(task_id=job_id), *ok(lab)], allow_failures=True
        )
        lab.app.control.revoke(job_id, reply=True, timeout=5, limit=1)
        assert was_told(lab, job_id)
    finally:
        lab.app.control.add_consumer(queue, reply=True, timeout=5, limit=1)
    assert watched.counts() == (2, 0, 1, 0)
    assert watched.called(2) == ["catch", "finally_"]
    assert lab.app.AsyncResult(job_id).state == "REVOKED"
    assert lab.attempts(key) == []


def test_a_member_that_is_revoked_while_it_is_prefetched_does_not_leave_its_batch_waiting(make_lab: MakeLab) -> None:
    lab = make_lab(worker_prefetch_multiplier=4)
    with lab.worker(concurrency=1) as worker:
        blocked, key, job_id = uuid(), uuid(), uuid()
        lab.send("bare", "wait:30", key=blocked)
        lab.wait_for(blocked, "runs")
        watched = Watched(
            lab, [lab.sig("plain", "return:never", key=key).set(task_id=job_id), *ok(lab)], allow_failures=True
        )
        worker.wait_for_log(f"[{job_id}] received")
        lab.app.control.revoke(job_id, reply=True, timeout=5, limit=1)
        assert was_told(lab, job_id)
        lab.go_on(blocked)
        assert watched.counts() == (2, 0, 1, 0)
        assert watched.called(2) == ["catch", "finally_"]
        assert lab.app.AsyncResult(job_id).state == "REVOKED"
        assert lab.attempts(key) == []


def test_callbacks_that_are_owed_are_sent_by_any_worker_and_run_once(lab: Lab) -> None:
    """As when the process that counted the last member is killed before it can send them."""
    key = str(uuid())
    store = runtime_of(lab.app).store
    signature = dict(lab.app.tasks["note"].s("finally", key))
    store.batches.create(NewBatch(key, callbacks={"finally": [signature]}))
    index = store.batches.add(key, 1)
    store.batches.close(key)
    change = store.batches.end_member(MemberEnd(key, index, "job", MemberState.SUCCEEDED))
    assert change is not None
    assert len(change.due) == 1

    lab.wait_for(key, "notes")

    wait_until(lambda: not store.batches.due(older_than=timedelta(0)))
    runtime_of(lab.app).callbacks.send(change.batch, change.due)  # twice, as after a crash before the mark was cleared
    assert lab.send("plain", "return:x")[0].get(timeout=30) == "x"
    assert len(lab.written(key, "notes")) == 1
