"""A clock that the test moves, an app whose store follows it, and a worker that delivers what is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.app.trace import build_tracer

from celery_laravel import install, signals
from celery_laravel.middleware.limits import rate_limiter
from celery_laravel.stores.factory import store_of
from celery_laravel.worker.request import JobRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from tests.support.clock import Clock


@pytest.fixture(autouse=True)
def own_limiters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the limiters of one test from the others."""
    monkeypatch.setattr(rate_limiter, "_definitions", {})


@pytest.fixture
def app(make_app: Callable[..., Celery], time: Clock) -> Celery:
    return install(make_app())


class Calls(list[str]):
    """The names of the methods called on a store's limits."""


@pytest.fixture
def calls(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What is asked of the limits of the app's store, in order."""
    calls, limits = Calls(), store_of(app).limits

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(limits, name)

        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return method(*args, **options)

        return call

    for name in ("take", "give_back", "cancel", "hit", "look", "clear"):
        monkeypatch.setattr(limits, name, counted(name))
    return calls


class Eventer:
    enabled = False

    def send(self, *args: Any, **options: Any) -> None:
        """Send nothing."""


class Worker:
    """Delivers the messages of an app in memory through Celery's own request and tracer, each when it is due."""

    def __init__(self, app: Celery, time: Clock) -> None:
        self.delays: list[float] = []
        self.headers: list[Any] = []
        self.deliveries = 0
        self._app, self._time = app, time
        self._due: dict[str, float] = {}
        self._waiting: list[Any] = []

    def note_release(self, task_id: str, delay: float, **_: Any) -> None:
        self._due[task_id] = self._time.now + delay
        self.delays.append(delay)

    def work(self) -> None:
        """Deliver what is due now, in order, until nothing more is."""
        with self._app.connection_for_read() as connection:
            channel = connection.default_channel
            while due := self._take_due(channel):
                for message in due:
                    self._deliver(message)

    def work_until_idle(self) -> None:
        """Deliver everything, moving the clock to whatever is due next."""
        self.work()
        while self._waiting:
            self._time.now = max(self._time.now, min(map(self._due_of, self._waiting)))
            self.work()

    def _due_of(self, message: Any) -> float:
        return self._due.get(message.headers["id"], 0.0)

    def _take_due(self, channel: Any) -> list[Any]:
        while (message := channel.basic_get(self._app.main)) is not None:
            self._waiting.append(message)
        due = [message for message in self._waiting if self._due_of(message) <= self._time.now]
        self._waiting = [message for message in self._waiting if message not in due]
        return due

    def _deliver(self, message: Any) -> None:
        self.deliveries += 1
        self.headers.append(message.headers.get("laravel"))
        task = self._app.tasks[message.headers["task"]]
        request = JobRequest(message, app=self._app, task=task, hostname="here", eventer=Eventer())
        if request.revoked():
            return
        args, kwargs, embed = message.payload
        context = {**request.request_dict, **embed, "hostname": "here", "is_eager": False}
        build_tracer(task.name, task, app=self._app)(request.id, args, kwargs, context)
        message.ack()


@pytest.fixture
def worker(app: Celery, time: Clock) -> Iterator[Worker]:
    worker = Worker(app, time)
    signals.job_released.connect(worker.note_release)
    yield worker
    signals.job_released.disconnect(worker.note_release)


@pytest.fixture
def failures() -> Iterator[list[BaseException]]:
    """The exceptions of jobs that failed for good."""
    seen: list[BaseException] = []

    def receive(exception: BaseException, **_: Any) -> None:
        seen.append(exception)

    signals.job_failed.connect(receive)
    yield seen
    signals.job_failed.disconnect(receive)


@pytest.fixture
def starts(time: Clock) -> list[Any]:
    """What each start of a job's code was for, and how long after the beginning."""
    return []


@pytest.fixture
def make_job(app: Celery, time: Clock, starts: list[Any]) -> Callable[..., Any]:
    """A function that makes a job behind middleware, which notes its starts."""
    beginning = time.now

    def make(*middleware: Any, **options: Any) -> Any:
        @app.task(name="job", middleware=list(middleware), **options)
        def job(number: int = 0, user: str = "ada") -> str:
            starts.append((number, round(time.now - beginning, 3)))
            return "ran"

        return job

    return make


def counted(app: Celery, name: str, key: str = "60:") -> int:
    return store_of(app).limits.look(f"limiter:{name}", key).count
