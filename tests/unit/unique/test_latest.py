"""``unique="latest"``: one running, at most one waiting, and the waiting one has the newest arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel import Bus, StoreUnavailableError
from celery_laravel.message.header import read_header
from celery_laravel.middleware import Release
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.unit.unique.conftest import Worker

pytestmark = pytest.mark.matrix


class Killed(BaseException):
    """The process is gone."""


def job(app: Celery, *script: Any, **options: Any) -> Any:
    ran: list[Any] = []
    steps = list(script) or [None]

    @app.task(name="job", bind=True, **{"unique": "latest", **options})
    def run(self: Any, value: Any = 0, *, key: Any = "a") -> Any:
        assert dict(self.arguments) == {"value": value, "key": key}
        ran.append(value)
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if isinstance(step, BaseException):
            raise step
        return step(self) if callable(step) else step

    run.ran = ran
    return run


def test_the_waiting_job_runs_once_with_the_newest_arguments(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app)
    first = task.delay(1)
    assert task.delay(2).id == first.id
    assert task.delay(3).suppressed
    assert worker.work() == 1
    assert (task.ran, locks()) == ([3], {})


def test_a_job_that_nothing_came_after_runs_with_its_own_arguments(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app)
    task.delay(1)
    worker.work()
    assert (task.ran, locks()) == ([1], {})


def test_one_may_wait_while_one_runs(app: Celery, worker: Worker, locks: Any) -> None:
    results: list[Any] = []
    held: list[Any] = []

    def dispatch_twice(self: Any) -> None:
        results.extend([self.delay(2), self.delay(3)])
        held.append(sorted(locks()))

    task = job(app, dispatch_twice, None)
    task.delay(1)
    worker.work()
    assert [result.suppressed for result in results] == [False, True]
    assert held == [["unique-running:job", "unique:job"]]
    worker.work()
    assert (task.ran, locks()) == ([1, 3], {})


def test_the_one_that_waits_does_not_start_while_the_other_runs(app: Celery, worker: Worker, locks: Any) -> None:
    starts: list[Any] = []

    def start_the_other(self: Any) -> None:
        self.delay(2)
        for turn in range(1, 7):
            [message] = worker.messages()
            worker.deliver(message)
            [message] = again = worker.messages()
            starts.append(read_header(message.headers).waits)
            assert turn == starts[-1]
            requeue(app, again)

    task = job(app, start_the_other, lambda self: starts.append(self.attempts), tries=1)
    task.delay(1)
    worker.work()
    assert (task.ran, starts) == ([1], [1, 2, 3, 4, 5, 6])
    worker.work()
    assert (task.ran, starts[-1], locks()) == ([1, 2], 1, {})


def requeue(app: Celery, messages: list[Any]) -> None:
    with app.connection_for_write() as connection:
        for message in messages:
            connection.default_channel.basic_publish(
                {
                    "body": message.body if isinstance(message.body, str) else message.body.decode(),
                    "content-type": message.content_type,
                    "content-encoding": message.content_encoding,
                    "headers": message.headers,
                    "properties": {**message.properties, "body_encoding": None},
                },
                exchange="",
                routing_key=app.main,
            )


def test_a_retry_keeps_the_arguments_it_was_given(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app, OSError("bad"), None, tries=2)
    first = task.delay(1)
    task.delay(2)
    worker.work()
    assert sorted(locks()) == [f"unique-arguments:{first.id}", "unique-running:job"]
    worker.work()
    assert (task.ran, locks()) == ([2, 2], {})


def test_the_next_waits_until_a_job_that_is_tried_again_has_ended(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app, OSError("bad"), None, tries=2)
    task.delay(1)
    worker.work()
    assert not task.delay(2).suppressed, "the first one has started, so another may wait"
    assert task.delay(3).suppressed
    again, other = worker.messages()
    worker.deliver(other)
    assert task.ran == [1], "the older one comes first, so that it cannot undo what the newer one does"
    worker.deliver(again)
    worker.work()
    assert (task.ran, locks()) == ([1, 1, 3], {})


def test_a_job_that_crashes_runs_again_with_the_arguments_it_was_given(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app, Killed(), None)
    task.delay(1), task.delay(2)
    [message] = worker.messages()
    with pytest.raises(Killed):
        worker.deliver(message)
    task.delay(8), task.delay(9)
    worker.deliver(message)
    assert task.ran == [2, 2], "not its old ones, and not those of the one that waits"
    worker.work()
    assert (task.ran, locks()) == ([2, 2, 9], {})


def test_a_crash_after_the_running_lease_is_taken_loses_nothing(
    app: Celery, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = job(app)
    task.delay(1), task.delay(2)
    [message] = worker.messages()

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(store_of(app).locks, "set_aside", die)
        with pytest.raises(Killed):
            worker.deliver(message)
    worker.deliver(message)
    assert task.ran == [2]


def test_a_store_that_is_gone_at_the_start_puts_the_job_back(
    app: Celery, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []
    task = job(app, lambda self: attempts.append(self.attempts), tries=1)
    task.delay(1), task.delay(2)

    def gone(*_: Any, **__: Any) -> Any:
        raise StoreUnavailableError("redis://gone")

    with monkeypatch.context() as patch:
        patch.setattr(store_of(app).locks, "set_aside", gone)
        worker.work()
    assert task.ran == []
    worker.work()
    assert (task.ran, attempts) == ([2], [1])


def test_middleware_sees_the_newest_arguments_and_a_release_keeps_them(app: Celery, worker: Worker, locks: Any) -> None:
    seen: list[Any] = []

    def look(job: Any, go_on: Any) -> Any:
        seen.append(job.arguments["value"])
        return go_on(job)

    closed = [True]
    task = job(app, middleware=[look, Release.when(lambda: closed.pop() if closed else False)])
    task.delay(1), task.delay(2)
    worker.work()
    assert not task.delay(3).suppressed
    worker.work_until_idle()
    assert (seen, task.ran, locks()) == ([2, 2, 3], [2, 3], {})


def test_the_record_of_a_failure_has_the_arguments_that_failed(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app, OSError("bad"), None)
    first = task.delay(1)
    task.delay(2)
    worker.work()
    record = Bus(app).failed.find(first.id)
    assert record.args_repr == "(2,)"
    Bus(app).failed.retry(first.id)
    worker.work_until_idle()
    assert (task.ran, locks()) == ([2, 2], {})


def test_a_lost_child_fails_the_job_with_the_arguments_it_had(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app, Killed())
    first = task.delay(1)
    task.delay(2)
    [message] = worker.messages()
    with pytest.raises(Killed):
        worker.deliver(message)
    task.settle_without_child(worker.request(message)._context, OSError("lost"))
    assert Bus(app).failed.find(first.id).args_repr == "(2,)"
    assert locks() == {}


def test_a_lost_child_fails_its_job_even_if_the_store_cannot_tell_its_arguments(
    app: Celery, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = job(app)
    first = task.delay(1)
    task.delay(2)
    [message] = worker.messages()

    def gone(*_: Any, **__: Any) -> Any:
        raise StoreUnavailableError("redis://gone")

    monkeypatch.setattr(store_of(app).locks, "set_aside", gone)
    task.settle_without_child(worker.request(message)._context, OSError("lost"))
    assert Bus(app).failed.find(first.id).args_repr == "(1,)"


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_the_arguments_travel_in_the_jobs_serializer(app: Celery, worker: Worker, serializer: str) -> None:
    app.conf.accept_content = ["json", "pickle"]
    task = job(app, serializer=serializer)
    value = {"bytes": b"\x00\xff"} if serializer == "pickle" else {"text": "ü"}
    task.delay(1), task.delay(value, key="a")
    worker.work()
    assert task.ran == [value]


def test_arguments_that_cannot_be_read_fail_the_job_and_no_other(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app)
    first = task.delay(1)
    task.apply_async((2,), serializer="pickle")
    worker.work()
    assert task.ran == []
    assert first.failed()
    assert locks() == {}


def test_keys_are_apart(app: Celery, worker: Worker) -> None:
    task = job(app, unique_id="key")
    task.delay(1, key="a"), task.delay(2, key="b"), task.delay(3, key="a")
    worker.work()
    assert task.ran == [3, 2]


def test_a_start_makes_two_calls(app: Celery, worker: Worker, calls: list[str]) -> None:
    task = job(app)
    task.delay(1)
    calls.clear()
    worker.work()
    assert calls == ["attempts.begin", "locks.set_aside", "locks.release_soon", "settle"]


def test_eagerly_a_job_may_run_within_itself(app: Celery, locks: Callable[[], dict[str, str]]) -> None:
    app.conf.task_always_eager = True
    task = job(app, lambda self: self.delay(2), None)
    task.delay(1)
    assert (task.ran, locks()) == ([1, 2], {})
