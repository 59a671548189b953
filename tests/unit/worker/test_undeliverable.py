"""Messages that no worker can take, in memory: settled once, kept as they came, and sent again as they were."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import NotRegistered

from celery_laravel import Bus, Job, signals
from celery_laravel.attempt import unique
from celery_laravel.job.undeliverable import settle_undeliverable
from celery_laravel.message.header import read_header
from celery_laravel.stores.factory import failed_jobs_of, store_of
from celery_laravel.stores.records import AttemptEnd
from celery_laravel.worker.starting import KEEP_OPEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery


@pytest.fixture
def messages(app: Celery) -> Callable[[], list[Any]]:
    """What has been published since the last look."""
    channel = app.connection_for_write().channel()

    def take() -> list[Any]:
        found = []
        while (message := channel.basic_get(app.conf.task_default_queue)) is not None:
            message.ack()
            found.append(message)
        return found

    return take


@pytest.fixture
def unknown(app: Celery) -> Any:
    return app.signature("nowhere", (1,), {"two": 2}, immutable=True)


def test_a_message_that_comes_twice_is_settled_once(app: Celery, messages: Any, unknown: Any) -> None:
    @app.task(name="note")
    def note(*args: Any) -> None: ...

    batch = Bus(app).batch([[unknown, note.si()], note.si()]).allow_failures().catch(note.s()).dispatch()
    [message] = [message for message in messages() if message.headers["task"] == "nowhere"]
    for _ in range(2):
        settle_undeliverable(app, message, NotRegistered("nowhere"))

    batch = batch.fresh()
    assert (batch.failed_jobs, batch.skipped_jobs, batch.pending_jobs) == (1, 1, 1)
    assert [sent.headers["task"] for sent in messages()] == ["note"], "the batch's catch"
    [record] = Bus(app).failed.all()
    assert (record.task, record.args_repr, record.batch_id) == ("nowhere", "(1,)", batch.id)


def test_a_copy_of_a_job_that_another_worker_has_run_is_dropped(app: Celery, messages: Any, unknown: Any) -> None:
    """That worker knew its task. The chain has gone on, and is not caught beside that."""

    @app.task(name="note")
    def note(*args: Any) -> None: ...

    Bus(app).chain([unknown, note.si()]).catch(note.s()).dispatch()
    [message] = messages()
    job_id, attempts = message.headers["id"], store_of(app).attempts
    given: dict[str, Any] = {"turn": 0, "attempts": 0, "exceptions": 0, "lease": timedelta(seconds=60)}
    attempts.begin(job_id, owner="a worker that knows it", keep=KEEP_OPEN, **given)
    attempts.end(AttemptEnd(job_id, 0, is_final=True, attempts=1), keep=KEEP_OPEN)
    app.backend.store_result(job_id, "done", "SUCCESS")
    settle_undeliverable(app, message, NotRegistered("nowhere"))

    assert (messages(), Bus(app).failed.count()) == ([], 0)
    assert app.AsyncResult(job_id).state == "SUCCESS"


def test_one_whose_worker_has_died_is_settled_while_its_lease_lasts(app: Celery, messages: Any, unknown: Any) -> None:
    """There may be no other message of it."""
    batch = Bus(app).batch([unknown]).allow_failures().dispatch()
    [message] = messages()
    given: dict[str, Any] = {"turn": 0, "attempts": 0, "exceptions": 0, "lease": timedelta(seconds=60)}
    store_of(app).attempts.begin(message.headers["id"], owner="a worker that died", keep=KEEP_OPEN, **given)
    settle_undeliverable(app, message, NotRegistered("nowhere"))
    assert (batch.fresh().failed_jobs, batch.fresh().pending_jobs) == (1, 0)


def test_one_whose_worker_died_as_it_settled_it_is_settled_when_it_comes_again(
    app: Celery, messages: Any, unknown: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(name="note")
    def note(*args: Any) -> None: ...

    def die(*_: Any) -> None:
        raise SystemExit

    Bus(app).chain([unknown, note.si()]).catch(note.s()).dispatch()
    [message] = messages()
    with monkeypatch.context() as patch:
        patch.setattr(failed_jobs_of(app), "record", die)
        with pytest.raises(SystemExit):
            settle_undeliverable(app, message, NotRegistered("nowhere"))
    assert len(messages()) == 1, "the catch"
    settle_undeliverable(app, message, NotRegistered("nowhere"))
    assert (len(messages()), Bus(app).failed.count()) == (0, 1)


def test_a_job_whose_task_was_unknown_can_be_tried_again_as_it_was(app: Celery, messages: Any, unknown: Any) -> None:
    @app.task(name="note")
    def note(*args: Any) -> None: ...

    batch = Bus(app).batch([[unknown, note.si(3)], note.si()]).allow_failures().dispatch()
    [message] = [message for message in messages() if message.headers["task"] == "nowhere"]
    settle_undeliverable(app, message, NotRegistered("nowhere"))
    assert Bus(app).failed.retry(message.headers["id"]) == 1

    [again] = messages()
    args, kwargs, embed = again.payload
    assert (again.headers["task"], again.headers["id"]) == ("nowhere", message.headers["id"])
    assert (args, kwargs) == ([1], {"two": 2})
    assert [step["args"] for step in embed["chain"]] == [[3]]
    before, after = read_header(message.headers), read_header(again.headers)
    assert (after.batch_id, after.index, after.turn) == (before.batch_id, before.index, 1)
    batch = batch.fresh()
    assert (batch.failed_jobs, batch.skipped_jobs, batch.pending_jobs) == (0, 0, 3)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_unique_lock_that_is_kept_elsewhere_is_freed_where_another_task_names_the_place(
    app: Celery, messages: Any, caplog: pytest.LogCaptureFixture, is_known: bool
) -> None:
    @app.task(base=Job, name="gone", unique=True, unique_via="memory://elsewhere", shared=False)
    def gone() -> None: ...

    via = {"unique": True, "unique_via": "memory://elsewhere"} if is_known else {}

    @app.task(base=Job, name="other", shared=False, **via)
    def other() -> None: ...

    locks = unique.store_for(gone).locks
    job = gone.delay()
    app.tasks.pop("gone")
    [message] = messages()
    settle_undeliverable(app, message, NotRegistered("gone"))

    assert [lock.owner for lock in locks.all()] == ([] if is_known else [job.id])
    assert ("unique:gone" in caplog.text and "unique_via" in caplog.text) is not is_known
    assert Bus(app).failed.count() == 1


def test_a_message_that_is_none_of_the_librarys_is_celerys_alone(
    app: Celery, messages: Any, unknown: Any, no_store: None
) -> None:
    unknown.apply_async()
    [message] = messages()
    settle_undeliverable(app, message, NotRegistered("nowhere"))
    message.headers = None
    settle_undeliverable(app, message, NotRegistered("nowhere"))


def test_a_damaged_header_is_told_and_nothing_else(
    app: Celery, messages: Any, unknown: Any, no_store: None, caplog: pytest.LogCaptureFixture
) -> None:
    unknown.set(headers={"laravel": {"v": 99}}).apply_async()
    [message] = messages()
    settle_undeliverable(app, message, NotRegistered("nowhere"))
    assert "version 99" in caplog.text


def test_receivers_hear_of_the_batch_in_a_child(app: Celery, messages: Any, unknown: Any) -> None:
    heard: list[Any] = []

    def receive(batch: Any, **_: Any) -> None:
        heard.append(batch)

    signals.batch_finished.connect(receive)
    batch = Bus(app).batch([unknown]).allow_failures().dispatch()
    [message] = messages()
    settle_undeliverable(app, message, NotRegistered("nowhere"))
    assert heard == []
    [told] = messages()
    app.tasks[told.headers["task"]].dispatch_sync(*told.payload[0])
    assert [(finished.id, finished.failed_jobs) for finished in heard] == [(batch.id, 1)]
