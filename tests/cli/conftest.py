"""An app with a real store, records in it, and the commands run on both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result
from kombu.serialization import dumps

from celery_laravel import Bus, install
from celery_laravel.cli.main import laravel
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.factory import forget_stores
from celery_laravel.stores.records import BatchRecord, FailedJob, MemberEnd, MemberState, NewBatch

Run = Callable[..., Result]
Fail = Callable[..., FailedJob]


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store_url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def app(store_url: str, redis_prefix: str) -> Iterator[Celery]:
    """An app whose broker lives in this process."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(laravel_store=store_url, laravel_prefix=redis_prefix)
    install(app)

    @app.task(name="shop.charge", tries=3, shared=False)
    def charge(order: int) -> int:
        return order

    with app.connection_for_write() as connection:  # queues in memory are the whole process's
        for queue in ("celery", "mails"):
            with connection.SimpleQueue(queue) as waiting:
                waiting.clear()
    yield app
    Bus(app).failed.flush()
    for batch in Bus(app).batches():
        batch.delete()
    forget_stores(app)
    app.close()


@pytest.fixture
def run(app: Celery) -> Run:
    """A function that runs ``celery -A shop laravel`` with its arguments, in this process."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(laravel, arguments, obj=CLIContext(app=app, no_color=False, workdir=None))

    return run


@pytest.fixture
def fail(app: Celery) -> Fail:
    """A function that leaves the record of a failed job, one that can be sent again."""

    def fail(
        job_id: str, *, queue: str = "celery", hours: float = 0, exception: str = "ValueError: no", **more: Any
    ) -> FailedJob:
        signature = app.signature("shop.charge", args=(7,), task_id=job_id, queue=queue)
        content_type, encoding, body = dumps(dict(signature), serializer="json")
        details: dict[str, Any] = {
            "connection": "default",
            "task": "shop.charge",
            "args_repr": "(7,)",
            "kwargs_repr": "{}",
            "traceback": f"Traceback (most recent call last):\n  …\n{exception}\n",
            "attempts": 3,
            "batch_id": None,
            "payload": {"content_type": content_type, "content_encoding": encoding, "body": body, "is_base64": False},
        }
        failed_at = datetime.now(timezone.utc) - timedelta(hours=hours)
        job = FailedJob(id=job_id, queue=queue, exception=exception, failed_at=failed_at, **{**details, **more})
        assert runtime_of(app).failed_jobs.record(job)
        return job

    return fail


@pytest.fixture
def make_batch(app: Celery) -> Callable[..., BatchRecord]:
    """A function that makes a batch of so many jobs, the first of which have succeeded or failed."""

    def make(
        batch_id: str, jobs: int, *, succeeded: int = 0, failed: int = 0, name: str = "", cancelled: bool = False
    ) -> BatchRecord:
        store = runtime_of(app).store.batches
        store.create(NewBatch(batch_id, name, allows_failures=True))
        store.add(batch_id, jobs)
        for index in range(succeeded + failed):
            state = MemberState.SUCCEEDED if index < succeeded else MemberState.FAILED
            store.end_member(MemberEnd(batch_id, index, f"{batch_id}-job-{index}", state))
        if cancelled:
            store.cancel(batch_id)
        return store.close(batch_id).batch

    return make


@pytest.fixture
def waiting(app: Celery) -> Callable[[str], list[str]]:
    """A function to the ids of the jobs that wait on a queue; it takes them off it."""

    def waiting(queue: str) -> list[str]:
        ids = []
        with app.connection_for_read() as connection:
            simple = connection.SimpleQueue(queue)
            while len(simple):
                message = simple.get_nowait()
                message.ack()
                ids.append(message.headers["id"])
            simple.close()
        return ids

    return waiting
