"""Debounced jobs: the newest dispatch within the window runs, and only it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from kombu.exceptions import EncodeError

from celery_laravel import Bus, StoreUnavailableError, signals
from celery_laravel.middleware import Release
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from tests.support.clock import Clock
    from tests.unit.unique.conftest import Worker

pytestmark = pytest.mark.matrix


def job(app: Celery, step: Any = None, **options: Any) -> Any:
    ran: list[Any] = []

    @app.task(name="job", bind=True, **{"debounce_for": 30, **options})
    def run(self: Any, value: Any = 0, key: Any = "a") -> Any:
        ran.append(value)
        if step is not None:
            step(self)
        return value

    run.ran = ran
    return run


@pytest.fixture
def debounced() -> Iterator[list[tuple[str, str]]]:
    """The ids of superseded jobs, each with the newer one's."""
    debounced: list[tuple[str, str]] = []

    def note(task_id: str, newer_id: str, **_: Any) -> None:
        debounced.append((task_id, newer_id))

    signals.job_debounced.connect(note)
    yield debounced
    signals.job_debounced.disconnect(note)


@pytest.fixture
def delay_of(app: Celery, time: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], float]:
    """A function: seconds until a message is due, exactly, for Celery counts them from the test's time too."""
    monkeypatch.setattr(app, "now", lambda: datetime.fromtimestamp(time.now, tz=timezone.utc))

    def delay_of(message: Any) -> float:
        return datetime.fromisoformat(message.headers["eta"]).timestamp() - time.now

    return delay_of


def test_the_newest_dispatch_runs_and_the_others_are_dropped_at_pick_up(
    app: Celery, worker: Worker, debounced: list[Any]
) -> None:
    task = job(app)
    one, two, three = task.delay(1), task.delay(2), task.delay(3)
    assert worker.work() == 3
    assert task.ran == [3]
    assert debounced == [(one.id, three.id), (two.id, three.id)]
    assert (one.get(), two.get(), three.get()) == (None, None, 3)


def test_each_waits_for_the_window(app: Celery, worker: Worker, delay_of: Callable[[Any], float]) -> None:
    task = job(app, debounce_for=timedelta(minutes=2))
    task.delay()
    [message] = worker.messages()
    assert delay_of(message) == 120


@pytest.mark.parametrize(("asked", "waits"), [(10, 30), (90, 90)])
def test_a_longer_countdown_is_kept(
    app: Celery, worker: Worker, delay_of: Callable[[Any], float], asked: float, waits: float
) -> None:
    job(app).apply_async(countdown=asked)
    [message] = worker.messages()
    assert delay_of(message) == waits


@pytest.mark.parametrize("expired", [False, True])
def test_the_newest_stands_for_all_before_it_even_if_it_is_called_off(
    app: Celery, worker: Worker, expired: bool
) -> None:
    task = job(app)
    task.delay(1), task.delay(2)
    first, newest = worker.messages()
    worker.request(newest)._announce_revoked("called off", terminated=False, signum=None, expired=expired)
    worker.deliver(first)
    assert task.ran == []


def test_a_later_eta_is_kept(app: Celery, worker: Worker, time: Clock, delay_of: Callable[[Any], float]) -> None:
    eta = datetime.fromtimestamp(time.now + 90, tz=timezone.utc)
    task = job(app)
    task.apply_async(eta=eta), task.apply_async(eta=eta.isoformat())
    assert [delay_of(message) for message in worker.messages()] == [90, 90]


def test_a_dispatch_after_the_start_is_another(app: Celery, worker: Worker) -> None:
    task = job(app)
    task.delay(1)
    worker.work()
    task.delay(2)
    worker.work()
    assert task.ran == [1, 2]


def test_max_wait_bounds_the_wait(app: Celery, worker: Worker, time: Clock, delay_of: Callable[[Any], float]) -> None:
    task = job(app, max_wait=50)
    delays: list[float] = []
    for value in range(5):
        task.delay(value)
        delays += map(delay_of, worker.messages())
        time.now += 15
    assert delays == [30, 30, 20, 5, 30], "the fifth comes after max_wait, and begins a window of its own"


def test_jobs_dispatched_without_pause_run_every_max_wait(
    app: Celery, worker: Worker, time: Clock, delay_of: Callable[[Any], float]
) -> None:
    task = job(app, max_wait=50)
    due: list[tuple[float, Any]] = []
    for value in range(100):
        task.delay(value)
        due += [(time.now + delay_of(message), message) for message in worker.messages()]
        time.now += 5
        for at, message in [item for item in due if item[0] <= time.now]:
            due.remove((at, message))
            worker.deliver(message)
    assert 8 <= len(task.ran) <= 10
    assert task.ran == sorted(task.ran)


def test_keys_are_apart(app: Celery, worker: Worker) -> None:
    task = job(app, unique_id="key")
    task.delay(1, key="a"), task.delay(2, key="b"), task.delay(3, "a")
    worker.work()
    assert task.ran == [2, 3]


def test_a_dispatch_that_fails_supersedes_nobody(app: Celery, worker: Worker) -> None:
    task = job(app)
    task.delay(1)
    with pytest.raises(EncodeError):
        task.apply_async((object(),), serializer="json")
    worker.work()
    assert task.ran == [1]


def test_a_process_that_dies_between_its_message_and_its_word_loses_nothing(
    app: Celery, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = job(app)
    task.delay(1)

    def die(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_of(app).debounces, "confirm", die)
        with pytest.raises(KeyboardInterrupt):
            task.delay(2)
    worker.work()
    assert task.ran == [1, 2]


def test_a_store_that_does_not_answer_lets_nothing_out(
    app: Celery, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = job(app)
    monkeypatch.setattr(store_of(app).debounces, "reserve", gone)
    with pytest.raises(StoreUnavailableError):
        task.delay()
    assert worker.messages() == []


def gone(*_: Any, **__: Any) -> Any:
    raise StoreUnavailableError("redis://gone")


def test_a_store_that_is_gone_at_pick_up_puts_the_job_back_and_it_is_asked_again(
    app: Celery, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = job(app, tries=1)
    task.delay(1), task.delay(2)
    with monkeypatch.context() as patch:
        patch.setattr(store_of(app).debounces, "start", gone)
        worker.work()
    assert task.ran == []
    worker.work()
    assert task.ran == [2]


def test_a_job_that_has_started_is_not_superseded_while_it_waits_for_another_attempt(
    app: Celery, worker: Worker, calls: list[str]
) -> None:
    closed = [True]
    task = job(app, middleware=[Release.when(lambda: closed.pop() if closed else False)])
    task.delay(1)
    worker.work()
    task.delay(2)
    worker.work()
    assert task.ran == [1, 2]
    assert calls.count("debounces.start") == 2


def test_a_chain_goes_on_after_a_superseded_step(app: Celery, worker: Worker) -> None:
    task = job(app)
    seen: list[Any] = []

    @app.task(name="last")
    def last(value: Any) -> None:
        seen.append(value)

    (task.s(1) | last.s()).apply_async()
    task.delay(2)
    worker.work_until_idle()
    assert task.ran == [2]
    assert seen == [None]


def test_members_of_a_batch_all_run(app: Celery, worker: Worker) -> None:
    task = job(app)
    batch = Bus(app).batch([task.s(1), task.s(2)]).dispatch()
    worker.work_until_idle()
    assert task.ran == [1, 2]
    assert batch.fresh().finished


def test_send_task_by_a_known_name_is_debounced(app: Celery, worker: Worker) -> None:
    task = job(app)
    app.send_task("job", (1,)), app.send_task("job", (2,))
    worker.work()
    assert task.ran == [2]


def test_a_dispatch_makes_two_calls_and_a_start_one(app: Celery, worker: Worker, calls: list[str]) -> None:
    job(app).delay()
    assert calls == ["debounces.reserve", "debounces.confirm"]
    worker.work()
    assert calls[2:] == ["debounces.start"]


def test_eager_jobs_and_dispatch_sync_run_at_once(app: Celery) -> None:
    task = job(app)
    task.dispatch_sync(1)
    app.conf.task_always_eager = True
    task.delay(2), task.delay(3)
    assert task.ran == [1, 2, 3]
