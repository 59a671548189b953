"""Delayed jobs, wherever they wait: in the store, in a database broker, or in both."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from celery_laravel import Bus, install
from celery_laravel.stores.factory import forget_stores, store_of
from celery_laravel.stores.records import NewDelay
from tests.transport.conftest import BROKERS, MARKS

HOUR = 3600


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, [])) for name in ("sqlite", "postgresql")])
def broker(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database broker."""
    with BROKERS[request.param](request) as url:
        yield url


@pytest.fixture
def app(broker: str) -> Iterator[Celery]:
    yield from make_app(broker)


def make_app(broker: str, **settings: Any) -> Iterator[Celery]:
    app = Celery("shop", broker=broker, set_as_current=False)
    app.conf.update({"laravel_store": "memory://", **settings})
    install(app)

    @app.task(name="shop.charge", tries=3, shared=False)
    def charge(order: int, currency: str = "EUR") -> int:
        return order

    yield app
    forget_stores(app)
    app.close()


def park(app: Celery, job_id: str, hours: float, queue: str = "celery") -> None:
    """Have a job wait in the store, as one does that is sent to another broker."""
    message = '{"headers": {"argsrepr": "(7,)"}}'
    delay = NewDelay(f"entry of {job_id}", job_id, "shop.charge", queue, message, timedelta(hours=hours))
    store_of(app).delays.park([delay])


def test_a_delay_that_the_broker_keeps_is_shown_as_it_was_dispatched(app: Celery) -> None:
    before = datetime.now(timezone.utc)
    sent = app.tasks["shop.charge"].apply_async((7,), {"currency": "CHF"}, countdown=HOUR, queue="mails")
    job = Bus(app).delayed.find(sent.id)
    assert job is not None
    assert (job.id, job.task, job.queue) == (sent.id, "shop.charge", "mails")
    assert (job.args_repr, job.kwargs_repr, job.batch_id) == ("(7,)", "{'currency': 'CHF'}", None)
    assert (job.parked_at, job.revoked) == (None, False)
    assert timedelta(minutes=59) < job.due_at - before < timedelta(minutes=61)
    assert Bus(app).delayed.all() == [job]
    assert Bus(app).delayed.count() == 1


def test_a_short_delay_is_kept_by_the_broker_as_well(app: Celery) -> None:
    sent = app.tasks["shop.charge"].apply_async((7,), countdown=30)
    assert [job.id for job in Bus(app).delayed.all()] == [sent.id]


def test_a_member_of_a_batch_names_it(app: Celery) -> None:
    batch = Bus(app).batch([app.tasks["shop.charge"].s(7).set(countdown=HOUR)]).dispatch()
    (job,) = Bus(app).delayed.all()
    assert job.batch_id == batch.id


def test_what_waits_here_and_there_is_one_list_with_the_first_due_first(app: Celery) -> None:
    delayed, charge = Bus(app).delayed, app.tasks["shop.charge"]
    for hours, queue in ((1, "mails"), (3, "celery"), (5, "mails")):
        charge.apply_async((hours,), task_id=f"broker-{hours}", countdown=hours * HOUR, queue=queue)
    for hours, queue in ((2, "mails"), (4, "celery")):
        park(app, f"store-{hours}", hours, queue)
    assert [job.id for job in delayed.all()] == ["broker-1", "store-2", "broker-3", "store-4", "broker-5"]
    assert [job.id for job in delayed.all(limit=3)] == ["broker-1", "store-2", "broker-3"]
    assert [job.id for job in delayed.all("mails", 2)] == ["broker-1", "store-2"]
    assert (delayed.count(), delayed.count("mails"), delayed.count("none")) == (5, 3, 0)
    for where in ("broker-3", "store-4"):
        found = delayed.find(where)
        assert found is not None
        assert found.id == where
    assert delayed.find("nobody") is None


def test_a_job_that_waits_twice_is_found_as_it_is_due_first(app: Celery) -> None:
    for hours, queue in ((2, "later"), (1, "sooner")):
        app.tasks["shop.charge"].apply_async((7,), task_id="twice", countdown=hours * HOUR, queue=queue)
    found = Bus(app).delayed.find("twice")
    assert found is not None
    assert found.queue == "sooner"


def test_a_job_that_is_called_off_is_shown_as_revoked_until_it_is_settled(app: Celery) -> None:
    sent = app.tasks["shop.charge"].apply_async((7,), countdown=HOUR)
    assert Bus(app).delayed.cancel(sent.id)
    job = Bus(app).delayed.find(sent.id)
    assert job is not None
    assert job.revoked
    assert job.due_at <= datetime.now(timezone.utc) + timedelta(seconds=5)


def test_what_another_connection_of_the_app_keeps_is_there_once(broker: str, tmp_path: Path) -> None:
    other = f"database+sqlite:///{tmp_path}/other.db"
    for app in make_app(broker, laravel_connections={"own": broker, "other": other}):
        app.tasks["shop.charge"].apply_async((7,), task_id="here", countdown=HOUR)
        with app.connection_for_write(other) as connection:
            app.tasks["shop.charge"].apply_async((7,), task_id="there", countdown=HOUR + 60, connection=connection)
        assert [job.id for job in Bus(app).delayed.all()] == ["here", "there"]
        assert Bus(app).delayed.count() == 2


def test_the_default_store_is_not_made_by_looking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    app = install(Celery("shop", broker="memory://", set_as_current=False))
    delayed = Bus(app).delayed
    assert (delayed.all(), delayed.count(), delayed.find("one"), delayed.cancel("one")) == ([], 0, None, False)
    assert list(tmp_path.iterdir()) == []


def test_a_broker_that_does_not_answer_is_no_empty_list() -> None:
    for app in make_app("database+postgresql+psycopg://nobody@127.0.0.1:1/nowhere"):
        park(app, "stored", 1)
        for look in (Bus(app).delayed.all, Bus(app).delayed.count, partial(Bus(app).delayed.find, "another")):
            with pytest.raises(OperationalError):
                look()
        found = Bus(app).delayed.find("stored")
        assert found is not None
        assert found.id == "stored"
