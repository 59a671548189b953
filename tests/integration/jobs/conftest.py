"""A client's app, and real workers that serve its jobs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from celery.utils import uuid

from celery_laravel import Bus
from celery_laravel.testing.processes import wait_until
from tests.support.jobs_app import make_app
from tests.support.worker import RunningWorker, running_worker

APP = "tests.support.jobs_app"


class Lab:
    """An app, and what its jobs have written down."""

    def __init__(self, places: dict[str, str], conf: dict[str, Any]) -> None:
        self.places, self.conf = places, conf
        self.app = make_app(**places, **conf)
        self.bus = Bus(self.app)

    def send(self, task: str, *script: str, key: str | None = None, **options: Any) -> tuple[Any, str]:
        """Dispatch a scripted job; return its result and the key under which it writes."""
        key = key or uuid()
        return self.app.tasks[task].apply_async((key, list(script)), **options), key

    def sig(self, task: str, *script: str, key: str) -> Any:
        """The immutable signature of a scripted job."""
        return self.app.tasks[task].si(key, list(script))

    def attempts(self, key: str) -> list[int]:
        """The number of each attempt that ran code, in order."""
        return [run["attempt"] for run in self.app.record.all(key, "runs")]

    def written(self, key: str, kind: str) -> list[Any]:
        return list(self.app.record.all(key, kind))

    def wait_for(self, key: str, kind: str, count: int = 1, timeout: float = 30) -> list[Any]:
        """Wait until so many entries are written, and return them."""
        wait_until(lambda: len(self.written(key, kind)) >= count, timeout, message=f"{count} {kind} of {key}")
        return self.written(key, kind)

    def go_on(self, key: str) -> None:
        """Let a job that waits go on."""
        self.app.record.client.rpush(f"record:{key}:go", 1)

    @contextmanager
    def worker(
        self, *args: str, app: str = APP, env: dict[str, str] | None = None, **more: Any
    ) -> Iterator[RunningWorker]:
        env = {f"JOBS_{name.upper()}": value for name, value in self.places.items()} | (env or {})
        env["JOBS_CONF"] = json.dumps(self.conf)
        env["C_FORCE_ROOT"] = "1"  # Celery refuses pickle to root, who runs the tests in a container
        with running_worker(
            app, args=["-Q", f"{self.places['queue']},other-{self.places['queue']}", *args], env=env, **more
        ) as worker:
            yield worker

    def close(self) -> None:
        self.app.record.client.close()
        self.app.close()


MakeLab = Callable[..., Lab]


@pytest.fixture(scope="module")
def make_lab(server_url: Callable[[str], str]) -> Iterator[MakeLab]:
    """A function that makes a lab: on Redis throughout, unless it is told a broker or a store."""
    labs: list[Lab] = []

    def make(*, broker: str = "redis", store: str = "redis", **conf: Any) -> Lab:
        redis = server_url("redis")
        places = {
            "broker": broker if "://" in broker else server_url(broker),
            "backend": redis,
            "store": store if "://" in store else server_url(store),
            "record": redis,
            "queue": f"jobs-{secrets.token_hex(4)}",
        }
        labs.append(Lab(places, conf))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


@pytest.fixture(scope="module")
def worker_options() -> Sequence[str]:
    """Further options of the module's worker."""
    return ()


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab, worker_options: Sequence[str]) -> Iterator[Lab]:
    """A lab with one prefork worker that the tests of a module share."""
    lab = make_lab()
    with lab.worker(*worker_options, env={"JOBS_SIGNALS": "1"}):
        yield lab
