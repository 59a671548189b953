"""Batches of an app that runs its tasks where they are dispatched."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, chain, group

from celery_laravel import Batch, BatchDispatchError, Bus, ConfigurationError, install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.matrix


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    app = install(make_app(task_always_eager=True))
    seen: list[Any] = []
    app.seen = seen

    @app.task(name="ok", tries=2, bind=True)
    def ok(self: Any) -> None:
        if self.attempts == 1:
            self.release(5)

    @app.task(name="bad")
    def bad() -> None:
        raise OSError("bad")

    @app.task(name="note")
    def note(batch: Any, *rest: Any) -> None:
        assert batch.fresh() == batch, "a callback's batch speaks of the store of its own app, whatever app is current"
        seen.append((rest[-1], batch.processed_jobs, *map(repr, rest[:-1])))

    return app


def dispatched(app: Celery, jobs: Any, **options: Any) -> Any:
    note = app.tasks["note"]
    pending = Bus(app).batch(jobs).then(note.s("then")).catch(note.s("catch")).finally_(note.s("finally"))
    return pending.allow_failures(options.get("allow", False)).dispatch()


def test_every_job_has_run_when_the_dispatch_returns(app: Celery) -> None:
    batch = dispatched(app, (app.tasks["ok"].si() for _ in range(3)))
    assert (batch.total_jobs, batch.pending_jobs, batch.progress) == (3, 0, 100)
    assert app.seen == [("then", 3), ("finally", 3)]


def test_a_failure_is_counted_and_not_raised(app: Celery) -> None:
    batch = dispatched(app, [app.tasks["bad"].si(), app.tasks["ok"].si()], allow=True)
    assert (batch.total_jobs, batch.failed_jobs, batch.pending_jobs) == (2, 1, 0)
    assert [kind for kind, *_ in app.seen] == ["catch", "finally"]
    assert "OSError" in app.seen[0][-1]


@pytest.mark.parametrize("make", [lambda *s: [list(s)], lambda *s: [chain(*s)], lambda *s: [[s[0], group(s[1:])]]])
def test_the_rest_of_a_chain_that_failed_never_runs(app: Celery, make: Any) -> None:
    batch = dispatched(app, make(app.tasks["bad"].si(), app.tasks["ok"].si(), app.tasks["ok"].si()))
    assert (batch.total_jobs, batch.failed_jobs, batch.skipped_jobs, batch.pending_jobs) == (3, 1, 2, 0)


@pytest.mark.parametrize("wrong", [5, "x", [5], [None], [[]], [lambda: None]])
def test_what_is_no_signature_is_refused_and_leaves_nothing(app: Celery, wrong: Any) -> None:
    with pytest.raises(TypeError, match="batch"):
        dispatched(app, wrong)
    assert Bus(app).batches() == []


def test_a_task_in_place_of_its_signature_is_refused_with_a_hint(app: Celery) -> None:
    with pytest.raises(TypeError, match=r"Did you mean ok\.s"):
        dispatched(app, [app.tasks["ok"]])


def test_an_iterable_that_fails_midway_cancels_the_batch_and_says_how_many_were_sent(app: Celery) -> None:
    def jobs() -> Iterator[Any]:
        for _ in range(1000):
            yield app.tasks["ok"].si()
        raise LookupError("no more")

    with pytest.raises(BatchDispatchError, match="after 1000 jobs") as caught:
        dispatched(app, jobs())
    assert isinstance(caught.value.__cause__, LookupError)
    batch = Bus(app).find_batch(caught.value.batch_id)
    assert batch is not None
    assert batch.cancelled
    assert batch.finished
    assert (batch.total_jobs, batch.skipped_jobs) == (1001, 1)
    assert "then" not in [kind for kind, *_ in app.seen]


@pytest.mark.parametrize("callback", [len, lambda batch: None, "note", 5])
def test_a_callback_that_cannot_travel_is_refused_where_it_is_given(app: Celery, callback: Any) -> None:
    with pytest.raises(TypeError, match="then"):
        Bus(app).batch([]).then(callback)


def test_options_must_travel(app: Celery) -> None:
    with pytest.raises(TypeError):
        Bus(app).batch([]).with_option("k", object())
    assert Bus(app).batch([]).with_option("k", [1]).dispatch().options["k"] == [1]


def test_an_empty_batch_is_finished(app: Celery) -> None:
    batch = dispatched(app, [])
    assert (batch.total_jobs, batch.progress, batch.finished) == (0, 100, True)
    assert app.seen == [("then", 0), ("finally", 0)]


def test_a_batch_is_equal_to_itself_after_travelling(app: Celery) -> None:
    import pickle

    from kombu.utils.json import dumps, loads

    batch = dispatched(app, [app.tasks["ok"].si()])
    assert loads(dumps(batch)) == batch == pickle.loads(pickle.dumps(batch))
    assert loads(dumps(batch.to_dict()))["id"] == batch.id


def test_waiting_gives_up_in_time_though_the_batch_goes_on_changing(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = dispatched(app, [])
    looks = (Batch(replace(batch._record, finished_at=None, total_jobs=number), app) for number in count(1))
    monkeypatch.setattr(Batch, "_look", lambda self: next(looks))
    with pytest.raises(TimeoutError, match="has not finished in time"):
        batch.wait(timeout=0.2)


def test_before_comes_first_and_progress_after_each_success(app: Celery) -> None:
    note, bad, ok = app.tasks["note"], app.tasks["bad"].si(), app.tasks["ok"].si()
    pending = Bus(app).batch([ok, bad, ok]).before(note.s("before")).progress(note.s("progress")).then(note.s("then"))
    batch = pending.allow_failures([note.s("failed"), note.s("failed too")]).finally_(note.s("finally")).dispatch()
    assert [(kind, processed) for kind, processed, *_ in app.seen] == [
        ("before", 0),
        ("progress", 1),
        ("failed", 2),
        ("failed too", 2),
        ("progress", 3),
        ("finally", 3),
    ]
    assert app.seen[2][-1] == "OSError('bad')"
    assert (batch.failed_jobs, batch.allows_failures) == (1, True)


def test_a_batch_that_cannot_be_begun_has_not_called_before(app: Celery) -> None:
    with pytest.raises(TypeError, match="no signature"):
        Bus(app).batch([1]).before(app.tasks["note"].s("before")).dispatch()
    assert app.seen == []


def test_callbacks_of_failures_go_when_failures_are_no_longer_allowed(app: Celery) -> None:
    pending = Bus(app).batch([app.tasks["bad"].si()]).allow_failures(app.tasks["note"].s("failed"))
    assert pending.allow_failures(False).dispatch().fresh().cancelled
    assert app.seen == []


def test_nothing_but_a_callback_allows_failures_with_one(app: Celery) -> None:
    with pytest.raises(TypeError, match=r"allow_failures\(3\)"):
        Bus(app).batch([]).allow_failures(3)
    with pytest.raises(TypeError, match=r"allow_failures.*does not take"):
        Bus(app).batch([]).allow_failures(app.tasks["bad"].s())


def test_a_chain_goes_on_when_a_batch_in_it_has_finished(app: Celery) -> None:
    @app.task(name="after")
    def after(batch: Batch) -> list[int]:
        app.seen.append(("after", batch.processed_jobs))
        return [batch.total_jobs, batch.progress]

    inner = Bus(app).batch([app.tasks["ok"].si(), [app.tasks["ok"].si()] * 2]).then(app.tasks["note"].s("then"))
    result = Bus(app).chain([app.tasks["ok"].si(), inner, after.s()]).dispatch()
    assert result.get() == [3, 100]
    assert app.seen == [("then", 3), ("after", 3)]


@pytest.mark.parametrize("allow", [False, True])
def test_a_chain_ends_with_a_batch_that_fails_unless_that_may(app: Celery, allow: bool) -> None:
    caught: list[str] = []

    @app.task(name="caught")
    def catch(error: Exception) -> None:
        caught.append(repr(error))

    @app.task(name="after")
    def after() -> None:
        caught.append("after")

    inner = Bus(app).batch([app.tasks["bad"].si(), app.tasks["ok"].si()]).allow_failures(allow)
    pending = Bus(app).chain([inner, after.si()]).catch(catch.s())
    if allow:
        pending.dispatch()
    else:
        with pytest.raises(OSError, match="bad"):
            pending.dispatch()
    assert caught == (["after"] if allow else ["OSError('bad')"])


def test_a_batch_in_a_canvas_must_be_able_to_travel(app: Celery) -> None:
    with pytest.raises(TypeError, match="no signature"):
        Bus(app).chain([Bus(app).batch([3])])
    with pytest.raises(TypeError, match=r"Bus.batch\(.*travel as JSON"):
        Bus(app).batch([app.tasks["note"].si(object())]).signature()
    with pytest.raises(ConfigurationError, match="Call install"):
        Bus(Celery(set_as_current=False)).batch([]).signature()
