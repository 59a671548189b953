"""Stores and brokers that are gone for a minute, or stand still, under every kind of job: none is lost or doubled."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid
from kombu.exceptions import OperationalError

from celery_laravel import StoreUnavailableError
from celery_laravel.dispatch import unique
from celery_laravel.testing.processes import wait_until
from tests.chaos.conftest import STAGES
from tests.chaos.load import COUNTED, Load
from tests.chaos.test_batches import Watched

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.chaos.ledger import Entry
    from tests.chaos.own_servers import OwnServer
    from tests.chaos.stage import Stage

pytestmark = [pytest.mark.redis, pytest.mark.timeout(400)]

MARKS = {"postgresql": [pytest.mark.postgresql], "mariadb": [pytest.mark.mariadb]}

LONGEST_DISPATCH = 30.0
"""Seconds within which a dispatch that needs a store which is away has raised."""
LONGEST_SHUTDOWN = 45.0
"""Seconds within which a worker stops whose jobs have ended, while only its store is away."""
MINUTE = 60.0
SHORT = 3
"""Seconds of an outage in the suite's short form."""


@pytest.fixture
def begin(
    request: pytest.FixtureRequest,
    make_stage: Any,
    own: Callable[[str], OwnServer],
    entry: Entry,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """A function that makes a stage with a server of its own on one side, and starts a worker there."""
    monkeypatch.setattr(unique, "PENDING", unique.PENDING / 20)  # as in the workers
    stages: list[Stage] = []
    request.node.stash[STAGES] = stages

    def make(broker: str, store: str, *, own_side: str) -> tuple[Stage, OwnServer]:
        entry.place = f"{broker} × {store}"
        server = own(broker if own_side == "broker" else store)
        places = {
            "broker": f"{server.broker_url} × {store}",
            "store": f"{broker} × {server.url}",
            "both": f"{server.broker_url} × {server.url}",
        }
        stage = make_stage(places[own_side])
        stages.append(stage)
        stage.start(concurrency=6)
        return stage, server

    yield make
    for stage in stages:
        stage.close()


def expect_no_start(load: Load, entry: Entry) -> Callable[[], None]:
    """Note how many jobs have begun that need the store; what is returned expects that there are no more."""
    time.sleep(1.5)  # those that were begun when the store went may still have to write that down
    begun = load.begun()

    def look() -> None:
        now = load.begun()
        entry.expect(now == begun, f"started without the store: {now - begun}")

    return look


def expect_end(stage: Stage, load: Load, entry: Entry, pid: int, *, goes_on: bool = True, **options: Any) -> None:
    """All has come to its one end, and the same worker works what is sent now."""
    try:
        wait_until(load.is_over, 120)
        stage.wait_until_quiet(90)
    except TimeoutError:
        entry.expect(False, "the end did not come")
    load.expect(entry, **options)
    entry.expect(stage.workers[0].is_running and stage.workers[0].pid == pid, "the worker was restarted")
    if goes_on:
        later = Load(stage, 4)
        later.let_go()
        try:
            wait_until(later.is_over, 60)
            stage.wait_until_quiet(60)
        except TimeoutError:
            entry.expect(False, "the worker does not go on")
        later.expect(entry)
    entry.judge()


def expect_refused(stage: Stage, entry: Entry, *, may_succeed: bool = False) -> str:
    """Dispatches that need the store raise in bounded time; return the unique key of one."""
    key = str(uuid())
    dispatches = {
        "a unique job": lambda: stage.app.tasks["once"].delay(key, "refused"),
        "a batch": lambda: stage.bus.batch([stage.sig("member", key, "refused")]).dispatch(),
    }
    for what, dispatch in dispatches.items():
        began = time.monotonic()
        try:
            dispatch()
        except StoreUnavailableError:
            took = time.monotonic() - began
            entry.expect(took < LONGEST_DISPATCH, f"the dispatch of {what} took {took:.0f} s")
        else:
            entry.expect(may_succeed, f"the dispatch of {what} did not raise")
    return key


STORES = [
    pytest.param(kind, marks=MARKS.get(kind, []), id=f"redis-{kind}") for kind in ("redis", "postgresql", "mariadb")
]


@pytest.mark.promise("the store gone: every kind of job waits or keeps its outcome, and goes on, by the same worker")
@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_a_minute_without_the_store(begin: Any, entry: Entry, rng: random.Random, store: str) -> None:
    stage, server = begin("redis", store, own_side="store")
    pid = stage.workers[0].pid
    load = Load(stage)
    load.wait_until_held()
    time.sleep(rng.uniform(0, 1.5))  # a random moment is the point
    with server.gone(MINUTE, entry):
        look = expect_no_start(load, entry)
        load.let_go()
        key = expect_refused(stage, entry)
        time.sleep(MINUTE - 25)
        look()
    fresh = stage.app.tasks["once"].delay(key, "later")
    entry.expect(not fresh.suppressed, "a dispatch that raised has left its lock")
    expect_end(stage, load, entry, pid)
    entry.expect(not stage.written(key, "started"), "a dispatch that raised has sent its jobs")
    entry.judge()


BROKERS = [
    pytest.param("redis", id="redis-redis"),
    pytest.param("rabbitmq", marks=pytest.mark.rabbitmq, id="rabbitmq-redis"),
    pytest.param("postgresql", marks=pytest.mark.postgresql, id="database-redis"),
    pytest.param("mariadb", marks=pytest.mark.mariadb, id="mariadb-redis"),
]


def is_uncounted(task: str) -> bool:
    """Whether a copy of a job that has ended runs again: its broker went before it was told, and no store counts it."""
    return task not in COUNTED


@pytest.mark.promise("the broker gone: workers come back to it by themselves, and no kind of job is lost")
@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
def test_a_minute_without_the_broker(begin: Any, entry: Entry, rng: random.Random, broker: str) -> None:
    stage, server = begin(broker, "redis", own_side="broker")
    pid = stage.workers[0].pid
    load = Load(stage)
    load.wait_until_held()
    time.sleep(rng.uniform(0, 1.5))  # a random moment is the point
    key = str(uuid())
    with server.gone(MINUTE, entry):
        time.sleep(1)
        load.let_go()
        began = time.monotonic()
        with pytest.raises(OperationalError):
            stage.app.tasks["once"].delay(key, "refused")
        took = time.monotonic() - began
        entry.expect(took < LONGEST_DISPATCH, f"a dispatch took {took:.0f} s")
    fresh = stage.app.tasks["once"].delay(key, "later")
    entry.expect(not fresh.suppressed, "a dispatch that raised has left its lock")
    expect_end(stage, load, entry, pid, may_repeat=is_uncounted)


@pytest.mark.promise("a store that stands still: calls end in bounded time, and nothing is lost or doubled")
@pytest.mark.short(1)
@pytest.mark.parametrize(
    ("store", "seconds"),
    [
        ("redis", SHORT),
        *(pytest.param(*kind.values, 20, id=kind.id, marks=[*kind.marks, pytest.mark.slow]) for kind in STORES),
    ],
)
def test_a_store_that_stands_still(begin: Any, entry: Entry, rng: random.Random, store: str, seconds: float) -> None:
    stage, server = begin("redis", store, own_side="store")
    pid = stage.workers[0].pid
    load = Load(stage, 12 if seconds > SHORT else 4)
    load.wait_until_held()
    time.sleep(rng.uniform(0, 1.5))  # a random moment is the point
    with server.frozen(seconds, entry):
        look = expect_no_start(load, entry)
        look()
        load.let_go()
        expect_refused(stage, entry, may_succeed=True)
    expect_end(stage, load, entry, pid, goes_on=seconds > SHORT)


@pytest.mark.promise("a broker that stands still: its workers go on, and nothing is lost")
@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
def test_a_broker_that_stands_still(begin: Any, entry: Entry, rng: random.Random, broker: str) -> None:
    stage, server = begin(broker, "redis", own_side="broker")
    pid = stage.workers[0].pid
    load = Load(stage)
    load.wait_until_held()
    time.sleep(rng.uniform(0, 1.5))  # a random moment is the point
    with server.frozen(20, entry):
        time.sleep(1)
        load.let_go()
    expect_end(stage, load, entry, pid, may_repeat=is_uncounted)


@pytest.mark.promise("a store that has become a replica, and forgets its scripts, is one that is gone for as long")
@pytest.mark.slow
@pytest.mark.parametrize("store", STORES[:2])
def test_a_store_that_is_read_only_for_a_while(begin: Any, entry: Entry, rng: random.Random, store: str) -> None:
    stage, server = begin("redis", store, own_side="store")
    pid = stage.workers[0].pid
    load = Load(stage)
    load.wait_until_held()
    time.sleep(rng.uniform(0, 1.5))  # a random moment is the point
    with server.read_only(20, entry):
        look = expect_no_start(load, entry)
        load.let_go()
        key = expect_refused(stage, entry)
        look()
    fresh = stage.app.tasks["once"].delay(key, "later")
    entry.expect(not fresh.suppressed, "a dispatch that raised has left its lock")
    expect_end(stage, load, entry, pid)


@pytest.mark.promise("a worker that is stopped while its store is gone leaves nothing behind that is not kept")
@pytest.mark.slow
@pytest.mark.parametrize("store", STORES[:2])
def test_a_worker_that_is_stopped_in_an_outage(begin: Any, entry: Entry, rng: random.Random, store: str) -> None:
    stage, server = begin("redis", store, own_side="store")
    load = Load(stage)
    load.wait_until_held()
    time.sleep(rng.uniform(0, 1.5))  # a random moment is the point
    with server.gone(LONGEST_SHUTDOWN, entry):
        load.let_go()
        time.sleep(1)
        began = time.monotonic()
        stage.workers[0].terminate(90)
        entry.fault("worker stopped")
        took = time.monotonic() - began
        entry.expect(took < LONGEST_SHUTDOWN, f"the worker took {took:.0f} s to stop")
    stage.start()
    expect_end(stage, load, entry, stage.workers[0].pid)


@pytest.mark.promise("a worker that is stopped while broker and store are gone leaves nothing behind that is not kept")
@pytest.mark.slow
def test_a_worker_that_is_stopped_while_all_is_gone(begin: Any, entry: Entry, rng: random.Random) -> None:
    """One Redis is both. What has ended is kept by the process that ran it, which the worker's shutdown waits for."""
    stage, server = begin("redis", "redis", own_side="both")
    load = Load(stage)
    load.wait_until_held()
    time.sleep(rng.uniform(0, 1.5))  # a random moment is the point
    with server.gone(30, entry):
        load.let_go()
        time.sleep(1)
        stage.workers[0].send(signal.SIGTERM)
        entry.fault("worker stopped")
    stage.workers[0].process.wait(60)
    stage.start()
    expect_end(stage, load, entry, stage.workers[0].pid, may_repeat=is_uncounted)


@pytest.mark.promise("packs whose store is gone keep what they have done until it can be counted, also when stopped")
@pytest.mark.slow
@pytest.mark.parametrize("is_stopped", [False, True], ids=["goes-on", "stopped"])
@pytest.mark.parametrize("store", STORES[:2])
def test_packs_outlive_an_outage(begin: Any, entry: Entry, rng: random.Random, store: str, is_stopped: bool) -> None:
    """Four packs run when the store goes, and end without it: no member runs again."""
    stage, server = begin("redis", store, own_side="store")
    names = [f"{number}" for number in range(160)]
    watched = Watched(stage, [("member", name, "return", 0.1) for name in names], is_watched=False, pack=40)
    wait_until(lambda: len(stage.written(watched.key, "done")) > 20, 30)
    time.sleep(rng.uniform(0, 1))  # a random moment is the point
    with server.gone(LONGEST_SHUTDOWN, entry):
        wait_until(lambda: len(stage.written(watched.key, "done")) >= len(names), 30)
        if is_stopped:
            began = time.monotonic()
            stage.workers[0].terminate(90)
            entry.fault("worker stopped")
            took = time.monotonic() - began
            entry.expect(took < LONGEST_SHUTDOWN, f"the worker took {took:.0f} s to stop")
    stage.start()
    try:
        wait_until(lambda: {"then", "finally"} <= set(watched.called()), 90)
        stage.wait_until_quiet(60)
    except TimeoutError:
        entry.lost += [f"{watched.fresh().pending_jobs} members"]
    entry.expect_each(names, [step["name"] for step in stage.written(watched.key, "started")])
    entry.expect_each(["then", "finally"], watched.called())
    entry.judge()
