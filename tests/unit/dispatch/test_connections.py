"""Dispatch to brokers beside the app's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, chain, chord, group
from kombu import Connection

from celery_laravel import Bus, ConfigurationError, install

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A broker that is not the app's own."""
    return f"database+sqlite:///{tmp_path}/other.db"


@pytest.fixture
def app(make_app: Callable[..., Celery], url: str) -> Celery:
    app = install(make_app(laravel_connections={"other": url, "third": "memory://"}))

    @app.task(name="work")
    def work(*args: Any) -> None: ...

    @app.task(name="limited", tries=3, unique=True)
    def limited() -> None: ...

    return app


def waiting(app: Celery, url: str | None = None) -> list[dict[str, Any]]:
    """The headers of the messages that wait in the app's queue, which are taken out."""
    with Connection(url) if url else app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.main)
        found = []
        try:
            while True:
                message = queue.get_nowait()
                message.ack()
                found.append(message.headers)
        except queue.Empty:
            queue.close()
            return found


def test_a_job_goes_to_the_broker_that_is_named(app: Celery, url: str) -> None:
    results = [app.tasks[name].apply_async(connection_name="other") for name in ("work", "limited")]
    with app.producer_pool.acquire(block=True) as producer:
        results.append(app.tasks["work"].s(1).apply_async(connection_name="other", producer=producer))
    assert [headers["id"] for headers in waiting(app, url)] == [result.id for result in results]
    assert waiting(app) == []


@pytest.mark.parametrize(
    "dispatch",
    [
        lambda app: app.tasks["work"].apply_async(connection_name="backup"),
        lambda app: Bus(app).chain([app.tasks["work"].s()]).on_connection("backup"),
        lambda app: Bus(app).batch([]).on_connection("backup"),
        lambda app: Bus(app).batch([]).with_option("connection", "backup").dispatch(),
    ],
)
def test_a_name_that_is_not_known_is_refused_with_those_that_are(app: Celery, dispatch: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"'backup'.*'other', 'third'"):
        dispatch(app)
    assert Bus(app).batches() == []


def test_without_connections_every_name_is_unknown(make_app: Callable[..., Celery]) -> None:
    app = install(make_app())
    with pytest.raises(ConfigurationError, match="'laravel_connections': it is empty"):
        Bus(app).batch([]).on_connection("other")


@pytest.mark.parametrize(
    ("step", "count"),
    [
        (lambda work: work.si(), 1),
        (lambda work: group(work.si(), chain(work.si(), work.si())), 2),
        (lambda work: chord([work.si(), work.si()], work.si()), 2),
    ],
)
def test_a_chains_first_step_goes_there_and_takes_the_others_with_it(
    app: Celery, url: str, step: Callable[..., Any], count: int
) -> None:
    work = app.tasks["work"]
    Bus(app).chain([step(work), work.si()]).on_connection("other").dispatch()
    assert len(waiting(app, url)) == count
    assert waiting(app) == []


def test_every_kind_of_member_goes_there_and_so_do_those_that_are_added(app: Celery, url: str) -> None:
    work = app.tasks["work"]
    members = [work.si(), [work.si(), work.si()], group(work.si(), work.si()), chord([work.si()], work.si())]
    batch = Bus(app).batch(members).on_connection("other").before(work.s()).dispatch()
    batch.add([work.si(), [work.si()]])
    sent = waiting(app, url)
    assert len(sent) == 1 + 5 + 2, "before, the first tasks of each member, those added"
    assert sent[0]["id"] == f"{batch.id}:before:0"
    assert (waiting(app), batch.fresh().options) == ([], {"connection": "other"})


def test_a_task_that_is_known_by_name_alone_is_refused(app: Celery, url: str) -> None:
    """Celery would send it to the app's own broker without a word."""
    with pytest.raises(ConfigurationError, match=r"'nobodys'.*Import the module"):
        Bus(app).chain([app.signature("nobodys"), app.tasks["work"].si()]).on_connection("other").dispatch()
    with pytest.raises(ConfigurationError, match="apply_async"):
        app.send_task("limited", connection_name="other")
    assert waiting(app, url) == waiting(app) == []


def test_members_wait_as_long_as_the_batch_or_they_say(app: Celery) -> None:
    work = app.tasks["work"]
    members = [work.si(1), [work.si(2), work.si(3)], work.si(4).set(countdown=90_000)]
    Bus(app).batch(members).delay(60).dispatch().add([work.si(5)])
    first, second, own, added = waiting(app)
    assert first["eta"][:13] == second["eta"][:13] < own["eta"]
    assert added["eta"] is None
    with pytest.raises(ValueError, match=r"delay\(-1\)"):
        Bus(app).batch([]).delay(-1)


def test_a_batch_may_depend_on_a_condition(app: Celery) -> None:
    pending = Bus(app).batch([app.tasks["work"].si()])
    assert pending.dispatch_if(lambda: False) is pending.dispatch_unless(1) is None
    assert waiting(app) == []
    assert pending.dispatch_if(True)
    assert pending.dispatch_unless(None)
    assert len(waiting(app)) == 2


def test_a_name_and_a_url_are_texts(make_app: Callable[..., Celery]) -> None:
    with pytest.raises(ConfigurationError, match=r"laravel_connections.*:\*\*\*@"):
        install(make_app(laravel_connections={"a": "redis://:secret@host", "b": None})).finalize()
