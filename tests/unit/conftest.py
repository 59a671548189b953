"""An app in memory, and a store that may not be used."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from celery import Celery, _state
from celery.app import builtins
from hypothesis import HealthCheck, settings

from celery_laravel import clock, install
from celery_laravel.stores import factory
from tests.support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# Side by side with other programs, a machine may be slow at times; that is no failure.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tasks of one test from the apps of another: Celery shares them among all apps of a process."""
    celerys = {add for add in _state._on_app_finalizers if add.__module__ == builtins.__name__}
    monkeypatch.setattr(_state, "_on_app_finalizers", celerys)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The library's time, which the test moves."""
    time = Clock()
    monkeypatch.setattr(clock, "now", time)
    return time


@pytest.fixture
def make_app() -> Iterator[Callable[..., Celery]]:
    """A function that makes an app whose broker, results and store are in memory; keywords are settings."""
    apps: list[Celery] = []

    def make(*, task_cls: Any = None, namespace: str | None = None, **conf: Any) -> Celery:
        app = Celery(
            f"app-{secrets.token_hex(4)}",
            broker="memory://",
            backend="cache+memory://",
            set_as_current=False,
            task_cls=task_cls,
            namespace=namespace,
        )
        app.conf.update(laravel_store="memory://", task_default_queue=app.main, task_store_eager_result=True)
        app.conf.laravel_durable_delay = None  # tests look at what is in the queues
        app.conf.update(**conf)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    """An app in memory with the library installed."""
    return install(make_app())


class ForbiddenStore:
    """A store of which nothing may be asked."""

    def __getattr__(self, name: str) -> NoReturn:
        pytest.fail(f"the store was asked for {name}")

    def close(self) -> None:
        """Be let go of, as any store."""


@pytest.fixture
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test when any store is opened."""
    monkeypatch.setattr(factory, "open_store", lambda url, **_: pytest.fail(f"the store {url} was opened"))
