"""Packs where they are run: each member is a job of its own, and a pack may come again at any time."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Reject, SoftTimeLimitExceeded
from celery.signals import task_failure, task_postrun, task_prerun, task_retry, task_success

from celery_laravel import Bus, SkipIfBatchCancelled, WithoutOverlapping, signals
from celery_laravel.attempt import packed
from celery_laravel.attempt.packed import PackTerms
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.message.debts import SETTLE
from celery_laravel.message.header import read_header
from celery_laravel.message.packs import CARRIER
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import LockRequest
from celery_laravel.worker import pack_slots, packs, tally
from celery_laravel.worker.starting import KEEP_OPEN

if TYPE_CHECKING:
    from celery import Celery

    from tests.unit.packs.conftest import Post

pytestmark = pytest.mark.matrix


@pytest.fixture
def play(app: Celery) -> Any:
    """Tasks that note their attempt and then do what their second argument says, once."""
    done: set[int] = set()

    def play(self: Any, number: int, action: str = "") -> Any:
        app.ran.append(number)
        app.attempts.setdefault(number, []).append(self.attempts)
        if number in done:
            return number
        done.add(number)
        if action == "raise":
            raise OSError(f"no {number}")
        if action == "release":
            self.release(0)
        if action == "retry":
            self.retry(countdown=0)
        if action.startswith("reject"):
            raise Reject("no", requeue=action == "reject again")
        if action == "cancel":
            self.batch.cancel()
        if action == "die":
            raise SystemExit
        return number

    app.attempts = {}
    for name, options in {"plain": {}, "tries2": {"tries": 2, "backoff": 0}, "tries1": {"tries": 1}}.items():
        app.task(name=name, bind=True, **options)(play)
    skips = [SkipIfBatchCancelled()]
    app.task(name="skipping", bind=True, middleware=skips)(play)
    return lambda task, number, action="": app.tasks[task].s(number, action)


def dispatched(app: Celery, post: Post, *jobs: Any, size: int = 100) -> tuple[Any, Any]:
    """A batch that allows failures, and its one message."""
    batch = Bus(app).batch(jobs).pack(size).allow_failures().dispatch()
    (message,) = post.take()
    assert message.headers["task"] == CARRIER
    return batch, message


def counts(batch: Any) -> tuple[int, int, int]:
    """Succeeded, failed, pending."""
    seen = batch.fresh()
    return (
        seen.total_jobs - seen.failed_jobs - seen.skipped_jobs - seen.pending_jobs,
        seen.failed_jobs,
        seen.pending_jobs,
    )


def crash(app: Celery, message: Any) -> None:
    """What a pack leaves behind whose process dies as it begins."""
    store_of(app).attempts.begin(
        message.headers["id"], turn=0, attempts=0, exceptions=0, owner="dead", lease=timedelta(0), keep=KEEP_OPEN
    )


def test_each_member_is_a_task_to_celery(app: Celery, post: Post, play: Any) -> None:
    seen: list[tuple[str, Any]] = []
    followed = {task_prerun: "prerun", task_postrun: "postrun", task_success: "success", task_failure: "failure"}
    followed |= {task_retry: "retry", signals.job_processing: "processing", signals.job_processed: "processed"}
    receivers = []
    for signal, name in followed.items():

        def receive(sender: Any, name: str = name, **_: Any) -> None:
            if sender.name != CARRIER or name == "processing":
                seen.append((name, sender.request.args[0]))

        receivers.append((signal, receive))
        signal.connect(receive, weak=False)
    try:
        _, message = dispatched(app, post, play("plain", 1), play("tries1", 2, "raise"))
        post.run(message)
    finally:
        for signal, receive in receivers:
            signal.disconnect(receive)
    one = ["prerun", "processing", "success", "postrun"]
    assert [name for name, number in seen if number == 1 and name != "processed"] == one
    assert [name for name, number in seen if number == 2] == ["prerun", "processing", "failure", "postrun"]
    assert ("processed", 1) in seen


def test_each_member_has_its_id_its_result_and_its_children(app: Celery, post: Post) -> None:
    @app.task(name="who", bind=True)
    def who(self: Any) -> list[Any]:
        child = self.app.tasks["who"].apply_async(countdown=60)
        return [self.request.id, self.request.root_id, self.request.correlation_id, child.id]

    _, message = dispatched(app, post, who.s().set(task_id="one"), who.s().set(task_id="two"))
    post.run(message)
    parents = {child.headers["id"]: child.headers["parent_id"] for child in post.take()}
    for task_id in ("one", "two"):
        *own, child_id = app.AsyncResult(task_id).get(timeout=5)
        assert own == [task_id] * 3
        assert parents[child_id] == task_id


def test_a_member_that_fails_does_so_alone(app: Celery, post: Post, play: Any) -> None:
    batch, message = dispatched(app, post, play("plain", 1), play("plain", 2, "raise"), play("plain", 3))
    post.run(message)
    assert (app.ran, counts(batch)) == ([1, 2, 3], (2, 1, 0))
    (record,) = Bus(app).failed.all()
    assert record.batch_id == batch.id
    assert record.exception == "OSError: no 2"
    assert record.queue == app.conf.task_default_queue
    assert Bus(app).failed.retry(record.id)
    assert counts(batch) == (2, 0, 1)
    (again,) = post.work()
    assert again.headers["id"] == record.id
    assert (app.ran, counts(batch)) == ([1, 2, 3, 2], (3, 0, 0))


@pytest.mark.parametrize(("task", "action"), [("plain", "release"), ("plain", "retry"), ("tries2", "raise")])
def test_a_member_that_is_put_back_goes_on_alone(app: Celery, post: Post, play: Any, task: str, action: str) -> None:
    batch, message = dispatched(app, post, play("plain", 1), play(task, 2, action), play("plain", 3))
    post.run(message)
    assert (app.ran, counts(batch)) == ([1, 2, 3], (2, 0, 1))
    (alone,) = post.work()
    assert alone.headers["task"] == task
    assert (app.ran, counts(batch)) == ([1, 2, 3, 2], (3, 0, 0))
    assert app.attempts[2] == ([1, 1] if action == "retry" else [1, 2])


@pytest.mark.parametrize(("task", "action"), [("plain", "release"), ("plain", "retry"), ("tries2", "raise")])
def test_a_member_that_has_left_runs_once_more_though_its_pack_comes_again(
    app: Celery, post: Post, play: Any, task: str, action: str
) -> None:
    batch, message = dispatched(app, post, play("plain", 1), play(task, 2, action), play("plain", 3, "die"))
    with pytest.raises(SystemExit):
        post.run(message)
    assert counts(batch) == (1, 0, 2)
    crash(app, message)  # its lease is over
    post.run(message, delivery={"redelivered": True})
    post.work()
    assert (app.ran, counts(batch)) == ([1, 2, 3, 2, 3], (3, 0, 0))


@pytest.mark.parametrize("action", ["reject again", "reject"])
def test_a_member_that_is_rejected_leaves_the_others_alone(app: Celery, post: Post, play: Any, action: str) -> None:
    batch, message = dispatched(app, post, play("plain", 1, action), play("plain", 2))
    post.run(message)
    assert counts(batch) == ((1, 0, 1) if action == "reject again" else (1, 1, 0))
    post.work()
    assert app.ran == ([1, 2, 1] if action == "reject again" else [1, 2])


def test_a_cancelled_batch_skips_the_rest_of_a_pack(app: Celery, post: Post, play: Any) -> None:
    batch, message = dispatched(app, post, play("skipping", 1), play("skipping", 2, "cancel"), play("skipping", 3))
    post.run(message)
    assert (app.ran, counts(batch)) == ([1, 2], (3, 0, 0))


def test_members_are_counted_together(app: Celery, post: Post, play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[int]] = []
    batches = store_of(app).batches
    count = batches.end_members

    def spy(batch_id: str, indices: Any) -> Any:
        calls.append(list(indices))
        return count(batch_id, indices)

    monkeypatch.setattr(batches, "end_members", spy)
    monkeypatch.setattr(tally, "INTERVAL", 60)
    batch, message = dispatched(app, post, *(play("plain", n) for n in range(50)))
    post.run(message)
    assert (calls, counts(batch)) == ([list(range(50))], (50, 0, 0))


def test_a_success_is_counted_while_the_next_member_runs(
    app: Celery, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "INTERVAL", 0.01)

    @app.task(name="waits", bind=True)
    def waits(self: Any, processed: int) -> None:
        while self.batch.processed_jobs < processed:
            pass

    batch, message = dispatched(app, post, waits.s(0), waits.s(1), waits.s(2))
    post.run(message)
    assert counts(batch) == (3, 0, 0)


def test_what_cannot_be_counted_is_kept_by_the_broker(
    app: Celery, post: Post, play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one message: to ask a store that is away takes seconds, which a pack of a hundred did a hundred times."""

    def fails(*_: Any, **__: Any) -> Any:
        raise StoreUnavailableError("memory://")

    batch, message = dispatched(app, post, play("plain", 1), play("plain", 2))
    store = store_of(app)
    with monkeypatch.context() as patch:
        patch.setattr(packs, "PATIENCE", 0)
        patch.setattr(store.batches, "end_members", fails)
        patch.setattr(store, "settle", fails)
        post.run(message)
    assert counts(batch) == (0, 0, 2)
    assert [debt.headers["task"] for debt in post.work()] == [SETTLE] * 2  # the second is of the pack itself
    assert (app.ran, counts(batch)) == ([1, 2], (2, 0, 0))


@pytest.mark.parametrize(("again_after", "asked"), [(5.0, 1), (0.0, 4)])
def test_a_store_that_is_away_is_not_asked_for_each_member(  # noqa: PLR0917  what tests are given
    app: Celery, post: Post, play: Any, monkeypatch: pytest.MonkeyPatch, again_after: float, asked: int
) -> None:
    """Which takes seconds each time. Those whose starts need not be counted run; the others are put back unharmed."""
    begin = store_of(app).attempts.begin
    calls: list[str] = []

    def fails(job_id: str, **details: Any) -> Any:
        if job_id == message.headers["id"]:
            return begin(job_id, **details)
        calls.append(job_id)
        raise StoreUnavailableError("memory://")

    jobs = [play("plain", 1), *(play("tries1", number) for number in range(2, 6)), play("plain", 6)]
    batch, message = dispatched(app, post, *jobs)
    with monkeypatch.context() as patch:
        patch.setattr(packed, "ASK_AGAIN", again_after)
        patch.setattr(store_of(app).attempts, "begin", fails)
        post.run(message)
    assert (app.ran, len(calls), counts(batch)) == ([1, 6], asked, (2, 0, 4))
    assert len(post.work()) == 4
    assert (app.ran, counts(batch)) == ([1, 6, 2, 3, 4, 5], (6, 0, 0))


def test_what_was_not_counted_comes_again(app: Celery, post: Post, play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise OSError("a bug")

    batch, message = dispatched(app, post, play("plain", 1), play("plain", 2))
    with monkeypatch.context() as patch:
        patch.setattr(store_of(app).batches, "end_members", fails)
        post.run(message)
    assert counts(batch) == (0, 0, 2)
    worked = post.work()
    assert [m.headers["task"] for m in worked] == [CARRIER]
    assert (app.ran, counts(batch)) == ([1, 2, 1, 2], (2, 0, 0))


def test_a_pack_whose_process_died_is_taken_apart(app: Celery, post: Post, play: Any) -> None:
    batch, message = dispatched(app, post, play("plain", 1), play("tries2", 2), play("plain", 3))
    store_of(app).batches.end_members(batch.id, [0])
    crash(app, message)
    post.run(message)
    assert app.ran == []
    alone = post.work()
    assert [m.headers["task"] for m in alone] == ["tries2", "plain"]
    assert all(read_header(m.headers).is_counted for m in alone)
    assert (app.ran, counts(batch), app.attempts[2]) == ([2, 3], (3, 0, 0), [1])


def test_members_that_were_sent_on_twice_run_once(app: Celery, post: Post, play: Any) -> None:
    batch, message = dispatched(app, post, play("plain", 1), play("plain", 2))
    crash(app, message)
    post.run(message)
    first = post.take()
    store_of(app).attempts.forget(message.headers["id"])
    crash(app, message)
    post.run(message)
    for copy in [*first, *post.take()]:
        post.run(copy)
    assert (app.ran, counts(batch)) == ([1, 2], (2, 0, 0))


def test_a_pack_that_was_only_fetched_before_is_run_as_one(app: Celery, post: Post, play: Any) -> None:
    batch, message = dispatched(app, post, play("plain", 1), play("plain", 2))
    store_of(app).batches.end_members(batch.id, [1])
    post.run(message, delivery={"redelivered": True})
    assert (app.ran, counts(batch), post.take()) == ([1], (2, 0, 0), [])


def test_a_copy_of_a_pack_that_has_ended_is_dropped(app: Celery, post: Post, play: Any) -> None:
    _, message = dispatched(app, post, play("plain", 1), play("plain", 2))
    post.run(message)
    post.run(message)
    assert (app.ran, post.take()) == ([1, 2], [])


def test_a_copy_of_a_pack_that_runs_waits(app: Celery, post: Post, play: Any) -> None:
    _, message = dispatched(app, post, play("plain", 1), play("plain", 2))
    store_of(app).attempts.begin(
        message.headers["id"],
        turn=0,
        attempts=0,
        exceptions=0,
        owner="another/1",
        lease=timedelta(60),
        keep=KEEP_OPEN,
    )
    post.run(message)
    (waiting,) = post.take()
    assert app.ran == []
    assert waiting.headers["id"] == message.headers["id"]
    assert read_header(waiting.headers).waits == 1


def test_a_member_that_is_counted_fails_when_it_has_been_lost_so_often(app: Celery, post: Post, play: Any) -> None:
    batch, message = dispatched(app, post, play("plain", 1), play("plain", 2))
    crash(app, message)
    post.run(message)
    first, second = post.take()
    for _ in range(3):
        store_of(app).attempts.begin(
            first.headers["id"], turn=0, attempts=0, exceptions=0, owner="dead", lease=timedelta(0), keep=KEEP_OPEN
        )
    post.run(first)
    post.run(second)
    assert (app.ran, counts(batch)) == ([2], (1, 1, 0))
    assert Bus(app).failed.all()[0].exception.startswith("MaxAttemptsExceededError")


def test_a_member_whose_task_is_not_known_goes_on_alone_for_a_worker_that_knows_it(
    app: Celery, post: Post, play: Any
) -> None:
    batch, message = dispatched(app, post, play("plain", 1), play("tries1", 2), play("plain", 3))
    known = app._tasks.pop("tries1")
    post.run(message)
    assert (app.ran, counts(batch)) == ([1, 3], (2, 0, 1))
    app._tasks["tries1"] = known
    (alone,) = post.work()
    assert alone.headers["task"] == "tries1"
    assert (app.ran, counts(batch)) == ([1, 3, 2], (3, 0, 0))


def test_a_pack_that_cannot_be_read_fails_and_no_other(app: Celery, post: Post, play: Any) -> None:
    carrier = app.tasks[CARRIER]
    for content in ({}, {"batch": "b", "kinds": [], "members": [[0, "id", 0, [], {}]]}, {"batch": 1, "kinds": 1}):
        carrier.apply_async(kwargs=content)
    messages = post.work()
    assert len(messages) == 3
    records = Bus(app).failed.all()
    assert [record.exception.partition(":")[0] for record in records] == ["InvalidMessageError"] * 3


def test_a_member_that_was_revoked_fails_without_being_run(app: Celery, post: Post, play: Any) -> None:
    pack_slots.share()
    slots = pack_slots.shared()
    assert slots is not None
    slot = slots.take()
    assert slot is not None
    slots.revoke(slot, 1)
    batch, message = dispatched(app, post, play("plain", 1), play("plain", 2), play("plain", 3))
    post.run(message, laravel_terms=PackTerms(slot=slot))
    slots.give_back(slot)
    assert (app.ran, counts(batch)) == ([1, 3], (2, 1, 0))
    (failed,) = batch.fresh().failed_job_ids
    assert app.AsyncResult(failed).state == "REVOKED"


def test_deleting_a_batch_leaves_its_packs_to_run_uncounted(app: Celery, post: Post, play: Any) -> None:
    batch, message = dispatched(app, post, play("plain", 1), play("plain", 2))
    batch.delete()
    post.run(message)
    assert app.ran == [1, 2]


def test_members_of_one_overlap_key_run_one_after_another_and_leave_when_it_is_held(app: Celery, post: Post) -> None:
    @app.task(name="exclusive", bind=True, tries=5, middleware=[WithoutOverlapping("key")])
    def exclusive(self: Any, number: int) -> None:
        app.ran.append(number)

    batch, message = dispatched(app, post, exclusive.s(1), exclusive.s(2))
    post.run(message)
    assert (app.ran, counts(batch), Bus(app).locks.all()) == ([1, 2], (2, 0, 0), [])
    batch, message = dispatched(app, post, exclusive.s(3), exclusive.s(4))
    locks = store_of(app).locks
    (key,) = _lock_taken_by(exclusive, 0)
    locks.acquire(LockRequest(key, "another/1", "overlap", ttl=timedelta(60), is_lease=True))
    post.run(message)
    assert (app.ran, counts(batch)) == ([1, 2], (0, 0, 2))
    locks.release([key], owner="another/1")
    post.work()
    assert (sorted(app.ran), counts(batch)) == ([1, 2, 3, 4], (2, 0, 0))


def _lock_taken_by(task: Any, *args: Any) -> list[str]:
    """The keys of the locks that a job holds while it runs."""
    held: list[str] = []
    run = task.run
    task.run = lambda *_: held.extend(lock.key for lock in Bus(task.app).locks.all())
    try:
        task.dispatch_sync(*args)
    finally:
        task.run = run
    return held


def test_a_limit_that_strikes_as_a_member_is_counted_leaves_it_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "INTERVAL", 60)
    counted: list[int] = []
    members = tally.Tally(counted.extend, name="batch")
    start = threading.Thread.start
    rung: list[bool] = []

    def ring(self: threading.Thread) -> None:
        if not rung:
            rung.append(True)
            raise SoftTimeLimitExceeded
        start(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", ring)
        members.add(7)
    members.close()
    assert (counted, members.waiting) == ([7], [])
