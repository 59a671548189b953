"""One job per key at a time."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain
from celery.app.trace import build_tracer

from celery_laravel import ConfigurationError, JobReleasedError, WithoutOverlapping, install, signals
from celery_laravel.attempt.ownership import new_owner, write_owner
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import LockRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    return install(make_app(task_always_eager=True))


@pytest.fixture
def told() -> Iterator[list[tuple[str, float | None]]]:
    """What middleware did, as `job_intercepted` tells it."""
    seen: list[tuple[str, float | None]] = []

    def receive(action: str, delay: float | None, **_: Any) -> None:
        seen.append((action, delay))

    signals.job_intercepted.connect(receive)
    yield seen
    signals.job_intercepted.disconnect(receive)


def _counting(calls: list[str], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return call(*args, **kwargs)

    return counted


def held(app: Celery) -> dict[str, Any]:
    return {record.key: record for record in store_of(app).locks.all()}


def occupy(app: Celery, key: str, *, owner: str = "somebody", ttl: float = 60) -> None:
    """Hold a lock as another worker would."""
    request = LockRequest(key, owner, "overlap", ttl=timedelta(seconds=ttl), is_lease=True)
    assert store_of(app).locks.acquire(request).acquired


def free(app: Celery, key: str) -> None:
    assert store_of(app).locks.free(key) == 1


@pytest.mark.parametrize(
    ("middleware", "key"),
    [
        (WithoutOverlapping(), "overlap:job"),
        (WithoutOverlapping("account"), "overlap:job:7"),
        (WithoutOverlapping(by=lambda job: job.arguments["account"] + 1), "overlap:job:8"),
        (WithoutOverlapping(by=["account", "region"]), 'overlap:job:[7, "eu"]'),
        (WithoutOverlapping("ledger"), "overlap:job:ledger"),
        (WithoutOverlapping("account", shared=True), "overlap:7"),
        (WithoutOverlapping("account", prefix="mine/"), "mine/job:7"),
        (WithoutOverlapping("account", prefix="mine/", shared=True), "mine/7"),
    ],
)
def test_the_lock_is_held_under_its_key_while_the_code_runs(
    app: Celery, middleware: WithoutOverlapping, key: str
) -> None:
    seen: list[Any] = []

    @app.task(name="job", middleware=[middleware])
    def job(account: int, region: str = "eu") -> None:
        seen.append(held(app))

    job.delay(7)

    record = seen[0][key]
    assert list(seen[0]) == [key]
    assert (record.kind, record.task, record.is_lease) == ("overlap", "job", True)
    assert record.expires_at - record.taken_at == timedelta(seconds=60)
    assert held(app) == {}


def test_with_expire_after_the_lock_is_no_lease_and_ends_when_it_says(app: Celery) -> None:
    seen: list[Any] = []

    @app.task(name="job", middleware=[WithoutOverlapping(expire_after=timedelta(minutes=3))])
    def job() -> None:
        seen.extend(held(app).values())

    job.delay()

    assert [record.is_lease for record in seen] == [False]
    assert seen[0].expires_at - seen[0].taken_at == timedelta(minutes=3)


@pytest.mark.parametrize(
    ("middleware", "delay"),
    [
        (WithoutOverlapping("k"), 0),
        (WithoutOverlapping("k", release_after=30), 30),
        (WithoutOverlapping("k", release_after=timedelta(minutes=1)), 60),
    ],
)
def test_a_job_that_is_turned_away_comes_back(
    app: Celery, told: list[Any], middleware: WithoutOverlapping, delay: float
) -> None:
    attempts: list[int] = []

    def free_at_second(job: Any, go_on: Any) -> Any:
        if job.attempts == 2:
            free(app, "overlap:job:k")
        return go_on(job)

    @app.task(name="job", bind=True, tries=5, middleware=[free_at_second, middleware])
    def job(self: Any) -> None:
        attempts.append(self.attempts)

    occupy(app, "overlap:job:k")
    job.delay()

    assert attempts == [2]
    assert told == [("released", delay)]
    assert held(app) == {}


@pytest.mark.parametrize("options", [{"release": False}, {"release_after": None}])
def test_a_job_may_be_skipped_instead_and_its_chain_goes_on(
    app: Celery, told: list[Any], options: dict[str, Any]
) -> None:
    ran: list[str] = []

    @app.task(name="job", middleware=[WithoutOverlapping("k", **options)])
    def job() -> None:
        ran.append("job")

    @app.task
    def after() -> None:
        ran.append("after")

    occupy(app, "overlap:job:k")
    chain(job.si(), after.si()).apply_async()

    assert ran == ["after"]
    assert told == [("skipped", None)]
    assert list(held(app)) == ["overlap:job:k"]


@pytest.mark.parametrize(("count_attempt", "attempts"), [(True, 4), (None, 4), (False, 1)])
def test_being_turned_away_uses_up_an_attempt_unless_told_otherwise(
    app: Celery, count_attempt: bool | None, attempts: int
) -> None:
    seen: list[int] = []
    entries: list[int] = []

    def free_in_the_end(job: Any, go_on: Any) -> Any:
        entries.append(1)
        if len(entries) == 4:
            free(app, "overlap:job:k")
        return go_on(job)

    @app.task(
        name="job",
        bind=True,
        tries=9,
        middleware=[free_in_the_end, WithoutOverlapping("k", count_attempt=count_attempt)],
    )
    def job(self: Any) -> None:
        seen.append(self.attempts)

    occupy(app, "overlap:job:k")
    job.delay()

    assert seen == [attempts]


def test_a_job_that_runs_itself_meanwhile_is_turned_away(app: Celery) -> None:
    @app.task(name="job", bind=True, middleware=[WithoutOverlapping("k")])
    def job(self: Any, depth: int) -> str:
        if depth:
            with pytest.raises(JobReleasedError):
                job.dispatch_sync(0)
            assert list(held(app)) == ["overlap:job:k"]
        return "ran"

    assert job.dispatch_sync(1) == "ran"
    assert held(app) == {}


def test_dispatch_sync_while_the_lock_is_held_tells_its_caller(app: Celery) -> None:
    @app.task(name="job", middleware=[WithoutOverlapping("k", release_after=12)])
    def job() -> None:
        pytest.fail("it ran")

    occupy(app, "overlap:job:k")
    with pytest.raises(JobReleasedError) as caught:
        job.dispatch_sync()

    assert caught.value.delay == 12


@pytest.mark.parametrize("middleware", [WithoutOverlapping("k"), WithoutOverlapping("k", release=False)])
def test_a_job_that_finds_the_lock_of_its_own_earlier_start_waits_for_its_end_free_of_charge(
    app: Celery, told: list[Any], middleware: WithoutOverlapping
) -> None:
    """Its worker died, and the message came again before the lease was over: that is not the job's fault."""
    seen: list[int] = []

    def earlier_start(job: Any, go_on: Any) -> Any:
        if not told:
            occupy(app, "overlap:job:k", owner=new_owner(job.request.id), ttl=41)
        else:
            free(app, "overlap:job:k")
        return go_on(job)

    @app.task(name="job", bind=True, tries=1, middleware=[earlier_start, middleware])
    def job(self: Any) -> None:
        seen.append(self.attempts)

    job.delay()

    assert seen == [1]
    assert [action for action, _ in told] == ["released"]
    assert 35 < told[0][1] <= 41


def test_two_layers_with_one_key_are_one_lock(app: Celery) -> None:
    @app.task(name="job", middleware=[WithoutOverlapping("k"), WithoutOverlapping("k")])
    def job() -> str:
        return "ran"

    assert job.delay().get() == "ran"
    assert held(app) == {}


def test_a_middleware_further_in_that_turns_the_job_away_frees_it(app: Celery) -> None:
    seen: list[Any] = []

    def inner(job: Any, go_on: Any) -> None:
        seen.append(list(held(app)))

    @app.task(name="job", middleware=[WithoutOverlapping("k"), inner])
    def job() -> None:
        pytest.fail("it ran")

    job.delay()

    assert seen == [["overlap:job:k"]]
    assert held(app) == {}


def test_it_takes_one_call_of_the_store_before_the_code_and_one_after(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    locks = store_of(app).locks
    for name in ("acquire", "release_soon", "release", "renew", "find", "all"):
        monkeypatch.setattr(locks, name, _counting(calls, name, getattr(locks, name)))

    @app.task(middleware=[WithoutOverlapping()])
    def job() -> None:
        calls.append("code")

    job.dispatch_sync()

    assert [call for call in calls if call != "release"] == ["acquire", "code", "release_soon"]


def test_without_its_store_a_job_does_not_run(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(store_of(app).locks, "acquire", fail)

    @app.task(middleware=[WithoutOverlapping()])
    def job() -> None:
        pytest.fail("it ran")

    with pytest.raises(StoreUnavailableError):
        job.dispatch_sync()


def test_a_key_that_would_differ_from_process_to_process_fails_the_job(app: Celery) -> None:
    @app.task(middleware=[WithoutOverlapping(by=lambda job: object())])
    def job() -> None:
        pytest.fail("it ran")

    with pytest.raises(TypeError, match="cannot be a key"):
        job.dispatch_sync()


def test_a_long_key_fits_into_every_store(app: Celery) -> None:
    seen: list[str] = []

    @app.task(middleware=[WithoutOverlapping("text", prefix="p" * 100)])
    def job(text: str) -> None:
        seen.extend(held(app))

    for end in "ab":
        job.delay("x" * 300 + end)

    assert len(set(seen)) == 2
    assert max(map(len, seen)) <= 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"release_after": -1}, "release_after must be seconds or a timedelta, not negative; it is -1"),
        ({"release_after": "soon"}, "release_after must be seconds"),
        ({"expire_after": timedelta.max}, "expire_after must be seconds"),
        ({"release_after": 10**400}, "release_after must be seconds"),
        ({"expire_after": 0}, "expire_after = 0 would hold no lock at all"),
        ({"expire_after": timedelta(seconds=-1)}, "expire_after must be seconds"),
        ({"prefix": None}, "prefix must be a string"),
        ({"release": 30}, "release must be True or False; it is 30"),
        ({"shared": "yes"}, "shared must be True or False; it is 'yes'"),
        ({"count_attempt": 0}, "count_attempt must be True, False or None; it is 0"),
        ({"by": object()}, "by = <object object at .*cannot be a key"),
        ({"by": ["account_id", object()]}, "cannot be a key"),
    ],
)
def test_wrong_options_are_refused_when_it_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        WithoutOverlapping(**options)


def test_it_shows_what_it_was_given(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    assert repr(WithoutOverlapping()) == "WithoutOverlapping()"
    shown = repr(WithoutOverlapping("a", None, 180, shared=True, count_attempt=False))
    assert shown == "WithoutOverlapping('a', release_after=None, expire_after=180.0, shared=True, count_attempt=False)"

    @app.task(name="job", middleware=[WithoutOverlapping("k", release=False)])
    def job() -> None:
        pytest.fail("it ran")

    occupy(app, "overlap:job:k")
    with caplog.at_level(logging.DEBUG, "celery_laravel.middleware"):
        job.delay()
    assert (
        "skipped by WithoutOverlapping('k', release_after=None), key overlap:job:k is held by somebody" in caplog.text
    )


def test_a_job_that_runs_itself_in_a_worker_is_turned_away_too(app: Celery) -> None:
    """Celery's `push_request` would let the inner start inherit the outer one's token."""
    owners: list[str] = []

    @app.task(name="job", bind=True, middleware=[WithoutOverlapping("k", release=False)])
    def job(self: Any) -> None:
        owners.extend(record.owner for record in held(app).values())
        job.dispatch_sync()

    task, request = app.tasks["job"], {"id": "an-id", "args": (), "kwargs": {}, "hostname": "here"}
    owner = write_owner(request, "an-id")
    build_tracer(task.name, task, app=app)("an-id", (), {}, request)

    assert owners == [owner]
