"""A batch that is dispatched by a job of its own, which may be started twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import group
from kombu.exceptions import OperationalError

from celery_laravel import Bus, install
from celery_laravel.dispatch.bulk import BulkPublisher
from celery_laravel.dispatch.chained_batch import ChainedBatch, inherit_queue
from celery_laravel.stores.factory import store_of
from tests.unit.dispatch.test_connections import waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from celery_laravel.stores.records import BatchChange

WAKES = {"next": {"task": "wake", "options": {"task_id": "waits"}}}


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    app = install(make_app())

    @app.task(name="work")
    def work(*args: Any) -> None: ...

    return app


def started(app: Celery, data: Any) -> list[Any]:
    """Start the batch once more; return the callbacks that were sent."""
    changes: list[BatchChange | None] = []
    ChainedBatch(app, store_of(app), data).start(WAKES, changes.append)
    return [callback.kind for change in changes if change is not None for callback in change.due]


def test_a_job_that_is_started_again_sends_copies_and_counts_nothing_twice(app: Celery) -> None:
    work = app.tasks["work"]
    pending = Bus(app).batch([work.si(1), [work.si(2), work.si(3)], group(work.si(4), work.si(5))]).before(work.s())
    data = pending.signature().kwargs["batch"]
    assert (started(app, data), started(app, data)) == (["before"], [])
    sent = waiting(app)
    first, second = sent[: len(sent) // 2], sent[len(sent) // 2 :]
    members = [(headers["id"], headers["laravel"]["index"]) for headers in first]
    assert members == [(headers["id"], headers["laravel"]["index"]) for headers in second]
    assert [index for _, index in members] == [0, 1, 3, 4]
    batch = Bus(app).find_batch(data["id"])
    assert batch is not None
    assert (batch.total_jobs, batch.pending_jobs) == (5, 5)


def test_a_broker_that_fails_midway_leaves_it_to_the_next_start(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Bus(app).batch([app.tasks["work"].si(n) for n in range(3)]).signature().kwargs["batch"]

    def fail(*args: Any) -> None:
        raise OperationalError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(BulkPublisher, "publish", fail)
        with pytest.raises(OperationalError):
            started(app, data)
    started(app, data)
    chained = ChainedBatch(app, store_of(app), data)
    change = chained.close()
    assert change is not None
    batch = change.batch
    assert (batch.total_jobs, batch.cancelled_at, len(waiting(app))) == (3, None, 3)
    started(app, data)
    assert waiting(app) == [], "it is dispatched"


def test_a_batch_without_a_queue_takes_that_of_the_chain_around_it(app: Celery) -> None:
    own, none = (Bus(app).batch([]).on_queue("own").signature(), Bus(app).batch([]).signature())
    for signature in (own, none):
        inherit_queue(signature, "chains")
    assert [signature.kwargs["batch"]["options"]["queue"] for signature in (own, none)] == ["own", "chains"]
