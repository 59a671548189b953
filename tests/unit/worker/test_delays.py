"""The thread that moves delayed jobs, and how a job revoked while it waited is told from others."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Producer

from celery_laravel import Bus, install
from celery_laravel.bootsteps import delays as bootstep
from celery_laravel.bootsteps.delays import DelayThread
from celery_laravel.errors import InvalidMessageError, StoreUnavailableError
from celery_laravel.message.header import Header
from celery_laravel.message.parked import Published, headers_of, is_marked_as_revoked, marked_as_revoked
from celery_laravel.operations.delayed import revoke_waiting
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import NewDelay
from celery_laravel.testing.processes import wait_until
from celery_laravel.worker.delays import CLAIMED_AT_ONCE, Mover


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    """An app in memory that parks long delays."""
    app = install(make_app(laravel_durable_delay=0))

    @app.task(name="job", shared=False)
    def job(n: int = 0) -> int:
        return n

    return app


@pytest.fixture
def running(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(bootstep, "INTERVAL", 0.01)
    thread = DelayThread(app)
    thread.start()
    yield thread
    thread.stop()
    assert not thread.is_alive()


def waiting(app: Celery) -> int:
    """How many messages lie in the app's queue."""
    with app.connection_for_read() as connection:
        return int(connection.default_channel.queue_declare(app.main).message_count)


def published(**given: Any) -> Published:
    values: dict[str, Any] = {
        "body": b"\x00\xff",
        "content_type": "application/x-python-serialize",
        "content_encoding": "binary",
        "headers": {"id": "job", "task": "job", "deep": {"a": [1, None]}},
        "exchange": "",
        "exchange_type": None,
        "routing_key": "queue",
        "options": {"priority": 3, "delivery_mode": 2},
    }
    return Published(**(values | given))


def test_a_message_comes_back_from_its_text() -> None:
    for message in (published(), published(body='["naïve 🚀"]', content_encoding="utf-8")):
        assert Published.from_text(message.as_text()) == message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"headers": {}}', '{"is_base64": true}'])
def test_a_text_that_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(InvalidMessageError, match="cannot be read"):
        Published.from_text(text)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"headers": null}', "{}"])
def test_what_cannot_be_read_shows_no_headers_and_cannot_be_marked(text: str) -> None:
    assert headers_of(text) == {}
    with pytest.raises(InvalidMessageError, match="cannot be read"):
        marked_as_revoked(text)


def test_a_mark_leaves_the_rest_of_a_message_as_it_is() -> None:
    marked = Published.from_text(marked_as_revoked(published().as_text()))
    assert is_marked_as_revoked(marked.headers)
    assert not is_marked_as_revoked(published().headers)
    assert marked.headers["expires"].startswith("1970")
    rest = {key: value for key, value in marked.headers.items() if key not in {"laravel", "expires"}}
    assert published(headers=rest) == published()
    assert marked.body == published().body


def test_a_mark_keeps_what_the_header_says_and_is_gone_when_the_job_is_tried_again() -> None:
    header = Header(batch_id="batch", index=3)
    text = published(headers={"id": "job", "task": "job", "laravel": header.encode()}).as_text()
    marked = Header.decode(headers_of(marked_as_revoked(text))["laravel"])
    assert (marked.batch_id, marked.index, marked.revoked) == ("batch", 3, True)
    assert not marked.afresh().revoked


def test_what_is_due_is_moved(app: Celery, running: DelayThread) -> None:
    for number in range(CLAIMED_AT_ONCE * 2 + 1):
        app.tasks["job"].apply_async((number,), countdown=0.05)
    app.tasks["job"].apply_async(countdown=3600)
    wait_until(lambda: waiting(app) == CLAIMED_AT_ONCE * 2 + 1, 30)
    assert Bus(app).delayed.count() == 1


def test_the_thread_outlives_a_store_that_is_away_and_says_so_once(
    app: Celery, running: DelayThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    delays = store_of(app).delays
    asked = threading.Semaphore(0)

    def away(*_: Any, **__: Any) -> Any:
        asked.release()
        raise StoreUnavailableError("memory://")

    app.tasks["job"].apply_async(countdown=3600, task_id="revoked")
    with caplog.at_level(logging.WARNING, "celery_laravel"):
        with monkeypatch.context() as patch:
            patch.setattr(delays, "move", away)
            patch.setattr(delays, "find", away)
            running.revoke(["revoked"])
            for _ in range(6):
                assert asked.acquire(timeout=10)
            app.tasks["job"].apply_async(countdown=0.05)
        wait_until(lambda: waiting(app) == 2, 30)  # the one that is due, and the revoked one
        wait_until(lambda: caplog.text.count("again") == 2, 30)
    assert caplog.text.count("Delayed jobs cannot be moved to their queues") == 1
    assert caplog.text.count("Revoked jobs cannot be looked for among those that wait") == 1


def test_a_broker_that_is_away_is_told_once_and_loses_nothing(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    delays = store_of(app).delays
    for number in range(3):
        app.tasks["job"].apply_async((number,), countdown=0.05)
    sent: list[Any] = []

    def publish(self: Any, body: Any, **options: Any) -> None:
        if sent:
            raise ConnectionResetError("gone")
        sent.append(body)

    with monkeypatch.context() as patch:
        patch.setattr(Producer, "publish", publish)
        thread = DelayThread(app)
        with caplog.at_level(logging.WARNING, "celery_laravel"):
            thread.start()
            wait_until(lambda: "cannot be moved" in caplog.text, 30)
            thread.stop()
    assert "does not answer (gone)" in caplog.text
    assert "Traceback" not in caplog.text
    assert delays.count() == 2


def test_a_message_that_cannot_be_read_is_told_and_others_go_on(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    delays = store_of(app).delays
    delays.park([NewDelay("entry", "damaged", "job", "queue", "{", timedelta())])
    app.tasks["job"].apply_async(countdown=0.05)
    mover = Mover(app)
    wait_until(lambda: mover.move() or delays.count() == 1, 10)
    assert "The delayed job damaged (job) cannot be sent" in caplog.text
    assert revoke_waiting(app, ["damaged"]) == 0
    assert "cannot be revoked" in caplog.text
    assert waiting(app) == 1
    mover.close()


def test_revoking_by_the_app_marks_what_waits_and_outlives_a_store_that_is_away(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(app.control, "broadcast", lambda *a, **k: told.append(k["arguments"]["task_id"]))
    for job_id in "ab":
        app.tasks["job"].apply_async(countdown=3600, task_id=job_id)
    app.AsyncResult("a").revoke()
    app.AsyncResult("a").revoke()
    assert [job.revoked for job in map(Bus(app).delayed.find, "ab") if job] == [True, False]

    def away(*_: Any) -> Any:
        raise StoreUnavailableError("memory://")

    monkeypatch.setattr(store_of(app).delays, "find", away)
    app.control.revoke(["b"])
    assert told == ["a", "a", ["b"]]
    assert "where it may wait until it is due, it is not marked" in caplog.text


def test_revoking_reaches_what_waits_in_the_table_of_another_broker(
    make_app: Callable[..., Celery], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connections = {"lacking": "sqs://", "table": f"database+sqlite:///{tmp_path}/other.db"}
    app = install(make_app(laravel_connections=connections))

    @app.task(name="job", shared=False)
    def job() -> None: ...

    monkeypatch.setattr(app.control, "broadcast", lambda *_, **__: None)
    with app.connection_for_write(connections["table"]) as connection:
        for job_id in "abc":
            job.apply_async(countdown=3600, task_id=job_id, connection=connection)
        app.control.revoke(["a", "x"])
        assert [Bus(app).delayed.cancel(job_id) for job_id in "bx"] == [True, False]
        channel = connection.default_channel
        found = [channel.basic_get(app.main, no_ack=True) for _ in range(3)]
    assert sorted(
        (one.headers["id"], is_marked_as_revoked(one.headers), one.headers["eta"]) for one in found if one
    ) == [
        ("a", True, None),
        ("b", True, None),
    ]
    assert caplog.text == ""


def test_a_table_that_is_away_does_not_keep_the_store_from_being_told(
    make_app: Callable[..., Celery], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connections = {"table": f"database+sqlite:///{tmp_path}/nowhere/other.db"}
    app = install(make_app(laravel_connections=connections, laravel_durable_delay=0))

    @app.task(name="job", shared=False)
    def job() -> None: ...

    monkeypatch.setattr(app.control, "broadcast", lambda *_, **__: None)
    job.apply_async(countdown=3600, task_id="job")
    app.control.revoke("job")
    waiting = Bus(app).delayed.find("job")
    assert waiting is not None
    assert waiting.revoked
    assert "it is not marked" in caplog.text


def test_a_job_that_waits_twice_is_called_off_twice(app: Celery) -> None:
    for seconds in (3600, 1800):
        app.tasks["job"].apply_async(countdown=seconds, task_id="job")
    job = Bus(app).delayed.find("job")
    assert job is not None
    assert (job.due_at - job.parked_at).total_seconds() < 1801
    assert Bus(app).delayed.cancel("job")
    assert [one.revoked for one in Bus(app).delayed.all()] == [True, True]
    assert json.loads(store_of(app).delays.all()[0].message)["headers"]["laravel"]["revoked"] is True
