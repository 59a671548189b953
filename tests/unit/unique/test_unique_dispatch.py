"""Unique jobs where they are dispatched: keys, how long a lock lasts, what is suppressed, what fails."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from kombu.exceptions import EncodeError

from celery_laravel import (
    Bus,
    ConfigurationError,
    Job,
    ShouldBeUnique,
    StoreUnavailableError,
)
from celery_laravel.stores.factory import store_of
from tests.unit.unique.scripted import job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from tests.support.clock import Clock
    from tests.unit.unique.conftest import Worker

pytestmark = pytest.mark.matrix


def test_a_second_dispatch_is_suppressed_and_returns_the_holders_result(
    app: Celery, worker: Worker, skipped: list[Any]
) -> None:
    task = job(app)
    first, second = task.delay(1), task.delay(2)
    assert (first.suppressed, second.suppressed) == (False, True)
    assert second.id == first.id
    [(own_id, holder_id)] = skipped
    assert holder_id == first.id != own_id
    worker.work_until_idle()
    assert task.ran == [1]


def test_the_lock_is_the_jobs_for_as_long_as_it_is_queued(
    app: Celery, time: Clock, locks: Callable[[], dict[str, str]]
) -> None:
    task = job(app)
    first = task.apply_async(countdown=10 * 86400)
    time.now += 365 * 86400
    assert locks() == {"unique:job": first.id}
    assert task.delay().suppressed


def test_without_unique_id_arguments_are_no_part_of_the_key(app: Celery) -> None:
    task = job(app)
    assert not task.delay(1).suppressed
    assert task.delay(2).suppressed


@pytest.mark.parametrize("other", [((1,), {}), ((), {"value": 1}), ((1, 0), {}), ((), {"value": 1, "other": 0})])
def test_equal_arguments_make_equal_keys_whatever_way_they_are_passed(app: Celery, other: Any) -> None:
    task = job(app, unique_id=("value", "other"))
    task.delay(1)
    assert task.apply_async(*other).suppressed
    assert not task.delay(1, 2).suppressed


def test_a_unique_id_may_be_a_method(app: Celery, locks: Callable[[], dict[str, str]]) -> None:
    class Update(Job, ShouldBeUnique):
        name = "update"
        tries = 2

        def unique_id(self, product: Any, **_: Any) -> Any:
            return product["id"]

        def run(self, product: Any, **_: Any) -> None:
            pass

    task = app.register_task(Update())
    first = task.delay({"id": 7, "name": "a"}, x=1)
    assert task.delay({"id": 7, "name": "b"}).id == first.id
    assert locks() == {"unique:update:7": first.id}


@pytest.mark.parametrize("other", [((), {}), ((0,), {}), ((), {"value": 0, "other": 5}), ((0, 5), {})])
def test_a_method_is_given_the_arguments_that_it_names_whatever_way_they_are_passed(app: Celery, other: Any) -> None:
    """So that it need not repeat all parameters of the task with their defaults."""
    task = job(app, unique_id=lambda self, value: value)
    task.delay()
    assert task.apply_async(*other).suppressed
    assert not task.delay(1).suppressed


@pytest.mark.parametrize(
    "unique_id",
    [
        lambda self, *args, **kwargs: (args, kwargs),
        lambda self, first, *rest: (first, rest),
        lambda self, **named: named,
        lambda self, value, **rest: (value, rest),
        lambda self, first, second: (first, second),
    ],
    ids=["any", "any number", "any name", "a name and any", "names of its own"],
)
@pytest.mark.parametrize("other", [((), {}), ((0,), {}), ((), {"value": 0}), ((0, 0), {}), ((), {"other": 0})])
def test_a_method_is_given_equal_arguments_in_one_way(app: Celery, unique_id: Any, other: Any) -> None:
    task = job(app, unique_id=unique_id)
    task.delay(0)
    assert task.apply_async(*other).suppressed
    assert not task.delay(1).suppressed
    assert not task.delay(0, other=1).suppressed


def test_a_method_that_takes_fewer_arguments_than_the_task_is_not_given_the_defaults(app: Celery, locks: Any) -> None:
    job(app, unique_id=lambda self, only: only).delay(value=7)
    assert list(locks()) == ["unique:job:7"]


def test_a_method_whose_names_are_its_own_is_given_all_arguments_as_they_are(app: Celery, locks: Any) -> None:
    job(app, unique_id=lambda self, first, *rest: (first, *rest)).delay(1, 2)
    assert list(locks()) == ["unique:job:[1, 2]"]


def test_long_values_are_hashed(app: Celery, locks: Callable[[], dict[str, str]]) -> None:
    task = job(app, unique_id="value")
    task.delay("x" * 500 + "1"), task.delay("x" * 500 + "2")
    assert len(locks()) == 2
    assert all(len(key) <= 255 for key in locks())


def test_a_value_without_a_text_of_its_own_is_an_error(app: Celery, worker: Worker) -> None:
    with pytest.raises(TypeError, match="cannot be a key"):
        job(app, unique_id="value").delay(object())
    assert worker.messages() == []


def test_arguments_that_do_not_fit_are_celerys_error(app: Celery, locks: Callable[[], dict[str, str]]) -> None:
    with pytest.raises(TypeError):
        job(app, unique_id="value").delay(1, 2, 3, 4)
    assert locks() == {}


@pytest.mark.parametrize("unique_for", [30, timedelta(seconds=30)])
def test_unique_for_ends_the_lock_and_is_counted_from_dispatch(app: Celery, time: Clock, unique_for: Any) -> None:
    task = job(app, unique_for=unique_for)
    task.delay()
    time.now += 29
    assert task.delay().suppressed
    time.now += 1
    assert not task.delay().suppressed


def test_unique_for_may_be_given_with_a_dispatch(app: Celery, time: Clock, worker: Worker) -> None:
    task = job(app, unique_for=30)
    task.apply_async(unique_for=90)
    time.now += 60
    assert task.delay().suppressed
    [message] = worker.messages()
    assert "unique_for" not in message.headers


@pytest.mark.parametrize("none", [0, None])
def test_unique_for_of_zero_or_none_has_no_end(app: Celery, time: Clock, none: Any) -> None:
    task = job(app, unique_for=none)
    task.delay()
    time.now += 10**9
    assert task.delay().suppressed


def test_unique_for_makes_sense_for_unique_jobs_only(app: Celery) -> None:
    task = job(app, unique=False)
    with pytest.raises(ConfigurationError, match=r"unique_for=5.*unique=True"):
        task.apply_async(unique_for=5)
    with pytest.raises(ConfigurationError, match="seconds or a timedelta"):
        task.apply_async(unique_for="soon")


def test_when_publishing_fails_the_lock_is_free_again(app: Celery, locks: Callable[[], dict[str, str]]) -> None:
    task = job(app, unique_for=3600)
    with pytest.raises(EncodeError):
        task.apply_async((object(),), serializer="json")
    assert locks() == {}
    assert not task.delay().suppressed


@contextmanager
def killed_as_it_publishes(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is done within ends where it would send a message."""

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(app.amqp, "send_task_message", die)
        with pytest.raises(Killed):
            yield


def test_a_process_that_dies_before_its_message_is_out_holds_the_lock_for_a_minute(
    app: Celery, time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = job(app)
    with killed_as_it_publishes(app, monkeypatch):
        task.delay()
    assert task.delay().suppressed
    time.now += 60
    assert not task.delay().suppressed


@pytest.mark.parametrize("how", ["release", "retry"])
def test_a_process_that_dies_before_it_has_put_its_job_back_holds_the_lock_for_a_minute(
    app: Celery, worker: Worker, time: Clock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A job that is acknowledged early has no other message then, so nobody would free a lock without an end."""
    task = job(app, lambda self: self.release(5) if how == "release" else self.retry(countdown=5), acks_late=False)
    task.delay()
    with killed_as_it_publishes(app, monkeypatch):
        worker.work()
    assert task.delay().suppressed
    time.now += 60
    assert not task.delay().suppressed


def test_a_job_that_is_put_back_keeps_its_lock_without_an_end(app: Celery, worker: Worker, time: Clock) -> None:
    task = job(app, lambda self: self.release(5))
    task.delay()
    worker.work()
    time.now += 1000
    assert task.delay().suppressed


def test_a_store_that_does_not_answer_lets_nothing_out(
    app: Celery, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = job(app)

    def unavailable(*_: Any) -> Any:
        raise StoreUnavailableError("redis://gone")

    monkeypatch.setattr(store_of(app).locks, "acquire", unavailable)
    with pytest.raises(StoreUnavailableError):
        task.delay()
    assert worker.messages() == []


def test_a_dispatch_waits_for_one_call_of_the_store_and_a_suppressed_one_too(app: Celery, calls: list[str]) -> None:
    task = job(app)
    task.delay()
    assert calls == ["locks.acquire", "locks.confirm"]
    task.delay()
    assert calls[2:] == ["locks.acquire"]


def test_with_unique_for_a_dispatch_makes_one_call(app: Celery, calls: list[str]) -> None:
    job(app, unique_for=60).delay()
    assert calls == ["locks.acquire"]


def test_a_step_of_a_chain_with_catch_is_skipped_and_the_chain_goes_on(app: Celery, worker: Worker) -> None:
    seen: list[str] = []

    @app.task(name="note")
    def note(what: str) -> None:
        seen.append(what)

    task = job(app)
    task.delay("first")
    result = Bus(app).chain([note.si("one"), task.si("second"), note.si("two")]).catch(note.s()).dispatch()
    [queued, step] = worker.messages()
    worker.deliver(step)
    worker.work_until_idle()
    assert (seen, task.ran) == (["one", "two"], [])
    assert result.get() is None
    worker.deliver(queued)
    assert task.ran == ["first"]
