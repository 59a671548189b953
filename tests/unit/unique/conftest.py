"""An app in memory whose clock the test moves, a worker that delivers on demand, and what the store is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.app.trace import build_tracer
from celery.worker.request import Request
from kombu.serialization import prepare_accept_content

from celery_laravel import install, signals
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from celery import Celery

    from tests.support.clock import Clock


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, make_app: Callable[..., Celery], time: Clock, tmp_path: Path) -> Celery:
    app = make_app()
    if request.param == "sqlite":
        app.conf.laravel_store = f"sqlite:///{tmp_path}/store.db"
    return install(app)


class Worker:
    """Delivers the messages of an app in memory through Celery's own request and tracer, whatever their delay."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def messages(self) -> list[Any]:
        """Take what is in the queue."""
        with self._app.connection_for_read() as connection:
            channel = connection.default_channel
            messages: list[Any] = list(iter(lambda: channel.basic_get(self._app.main, no_ack=True), None))
        for message in messages:
            message.accept = prepare_accept_content(self._app.conf.accept_content)
        return messages

    def deliver(self, message: Any) -> Any:
        """Run one message; what Celery's tracer returns."""
        task = self._app.tasks[message.headers["task"]]
        request = self.request(message)
        args, kwargs, embed = message.payload
        context = {**request.request_dict, **embed, "hostname": "here", "is_eager": False}
        return build_tracer(task.name, task, app=self._app)(request.id, args, kwargs, context)

    def request(self, message: Any) -> Any:
        task = self._app.tasks[message.headers["task"]]
        cls = getattr(task, "Request", Request)
        if isinstance(cls, str):
            from celery.utils.imports import symbol_by_name

            cls = symbol_by_name(cls)
        return cls(message, app=self._app, task=task, hostname="here", eventer=None, connection_errors=())

    def work(self) -> int:
        """Deliver what is in the queue now, in order, and not what that puts there; return how many there were."""
        messages = self.messages()
        for message in messages:
            self.deliver(message)
        return len(messages)

    def work_until_idle(self) -> None:
        for _ in range(50):
            if not self.work():
                return
        pytest.fail("there is no end to the messages")


@pytest.fixture
def worker(app: Celery) -> Worker:
    return Worker(app)


@pytest.fixture
def locks(app: Celery) -> Callable[[], dict[str, str]]:
    """What is held: owners by key."""
    return lambda: {record.key: record.owner for record in store_of(app).locks.all()}


@pytest.fixture
def calls(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the app's store is asked about attempts, locks and debounced jobs, in order."""
    calls: list[str] = []
    depth: list[str] = []
    store: Any = store_of(app)
    names = {
        "attempts": ("begin", "end", "forget"),
        "locks": ("acquire", "confirm", "release", "release_soon", "set_aside", "renew", "find"),
        "debounces": ("reserve", "confirm", "start"),
    }

    def count(part: Any, name: str, shown: str) -> None:
        method = getattr(part, name)

        def call(*args: Any, **options: Any) -> Any:
            if not depth:  # what the store does within one of its steps is no call
                calls.append(shown)
            depth.append(shown)
            try:
                return method(*args, **options)
            finally:
                depth.pop()

        monkeypatch.setattr(part, name, call)

    for part, methods in names.items():
        for name in methods:
            count(getattr(store, part), name, f"{part}.{name}")
    count(store, "settle", "settle")
    return calls


@pytest.fixture
def skipped() -> Iterator[list[tuple[str, str]]]:
    """The ids of suppressed dispatches, each with its holder's."""
    skipped: list[tuple[str, str]] = []

    def note(task_id: str, holder_id: str, **_: Any) -> None:
        skipped.append((task_id, holder_id))

    signals.unique_job_skipped.connect(note)
    yield skipped
    signals.unique_job_skipped.disconnect(note)
