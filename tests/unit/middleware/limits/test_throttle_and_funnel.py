"""Blocks of code that keep to a limit, in threads and in coroutines."""

from __future__ import annotations

import asyncio
import threading
import time as real_time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, current_app

from celery_laravel import ConfigurationError, LimitTimeoutError, funnel, throttle
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.clock import Clock
    from tests.unit.middleware.limits.conftest import Calls


@pytest.fixture
def waits(time: Clock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds waited, during which the clock moves and nothing else."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        time.now += seconds

    real_sleep = asyncio.sleep

    async def sleep_async(seconds: float) -> None:
        sleep(seconds)
        await real_sleep(0)

    moved = SimpleNamespace(sleep=sleep, monotonic=lambda: time.now)
    for module in ("throttles", "funnels", "waiting"):
        monkeypatch.setattr(f"celery_laravel.middleware.limits.{module}.time", moved)
    monkeypatch.setattr(asyncio, "sleep", sleep_async)
    return waits


def enter(block: Any) -> None:
    with block:
        pass


def enter_async(block: Any) -> None:
    async def go() -> None:
        async with block:
            pass

    asyncio.run(go())


both = pytest.mark.parametrize("go_through", [enter, enter_async])


def passages(app: Celery, key: str) -> int:
    return store_of(app).limits.look("throttle", key).count


def places(app: Celery, key: str) -> list[Any]:
    return store_of(app).locks.find(f"funnel:{key}")


# -- throttle


@both
def test_so_many_passages_in_so_much_time(app: Celery, time: Clock, go_through: Callable[[Any], None]) -> None:
    block = throttle("geocoder", app).allow(2).every(60)
    go_through(block)
    go_through(block)
    with pytest.raises(LimitTimeoutError, match=r"throttle\('geocoder'\) has no room: 2 in 60 s") as caught:
        go_through(block)
    assert caught.value.available_in == pytest.approx(60)
    time.now += 60
    go_through(block)


@both
def test_who_may_wait_gets_a_passage_of_its_own(
    app: Celery, calls: Calls, waits: list[float], go_through: Callable[[Any], None]
) -> None:
    block = throttle("geocoder", app).allow(1).every(10).block(30)
    go_through(block)
    go_through(block)
    assert waits == [pytest.approx(10, abs=0.1)]
    assert calls == ["take", "take", "take"]


@both
def test_who_would_wait_too_long_is_told_at_once_and_keeps_nothing(
    app: Celery, calls: Calls, waits: list[float], time: Clock, go_through: Callable[[Any], None]
) -> None:
    block = throttle("geocoder", app).allow(1).every(60).block(30)
    go_through(block)
    with pytest.raises(LimitTimeoutError, match="no room within 30 s"):
        go_through(block)
    assert waits == []
    assert calls == ["take", "take", "cancel"]
    time.now += 60
    assert passages(app, "60:geocoder") == 0


@both
def test_a_passage_stays_counted_whatever_happens_in_the_block(app: Celery, go_through: Callable[[Any], None]) -> None:
    with pytest.raises(ValueError, match="inside"), throttle("geocoder", app).allow(5).every(60):
        raise ValueError("inside")
    assert passages(app, "60:geocoder") == 1


def test_an_interrupted_wait_gives_up_its_passage(
    app: Celery, time: Clock, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    block = throttle("geocoder", app).allow(1).every(10).block(30)
    enter(block)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("celery_laravel.middleware.limits.waiting.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        enter(block)
    time.now += 10
    assert passages(app, "10:geocoder") == 0


def test_a_cancelled_wait_gives_up_its_passage(app: Celery, time: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    block = throttle("geocoder", app).allow(1).every(10).block(30)

    async def main() -> None:
        async with block:
            pass
        waits, never = asyncio.Event(), asyncio.Event()

        async def sleep(seconds: float) -> None:
            waits.set()
            await never.wait()

        monkeypatch.setattr(asyncio, "sleep", sleep)
        waiter = asyncio.ensure_future(go_through())
        await waits.wait()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    async def go_through() -> None:
        async with block:
            pytest.fail("it was cancelled before")

    asyncio.run(main())
    time.now += 10
    assert passages(app, "10:geocoder") == 0


@pytest.mark.parametrize(
    ("block", "missing"),
    [(throttle("x"), r"\.allow"), (throttle("x").allow(1), r"\.every"), (throttle("x").every(1), r"\.allow")],
)
def test_a_throttle_that_lacks_a_part_says_which(block: Any, missing: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"throttle\('x'\) does not say {missing}"):
        enter(block)


@pytest.mark.parametrize(
    ("describe", "message"),
    [
        (lambda: throttle("x").allow(0), "whole number of starts, 1 or more, not 0"),
        (lambda: throttle("x").allow(1.5), "whole number of starts, 1 or more, not 1.5"),  # type: ignore[arg-type]
        (lambda: throttle("x").every(0), "lasts seconds above 0"),
        (lambda: throttle("x").block(-1), r"block\(\) takes seconds"),
        (lambda: funnel("x").limit(0), r"funnel\('x'\): limit\(\) must be a whole number, 1 or more; it is 0"),
        (lambda: funnel("x").release_after(0), r"release_after\(\) must be above 0 seconds; it is 0"),
        (lambda: funnel("x").release_after("1"), r"release_after\(\) takes seconds"),  # type: ignore[arg-type]
        (lambda: funnel("x").block("soon"), r"block\(\) takes seconds"),  # type: ignore[arg-type]
    ],
)
def test_a_part_of_the_wrong_kind_is_refused_when_it_is_said(describe: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        describe()


def test_each_part_makes_another_throttle_and_the_same_length_the_same_count(app: Celery) -> None:
    one = throttle("geocoder", app).allow(1)
    enter(one.every(60))
    enter(one.every(3600))
    with pytest.raises(LimitTimeoutError):
        enter(throttle("geocoder", app).allow(1).every(60))
    with pytest.raises(ConfigurationError):
        enter(one)


def test_they_speak_of_celerys_current_app(app: Celery) -> None:
    before = current_app._get_current_object()
    app.set_current()
    try:
        enter(throttle("geocoder").allow(3).every(60))
        with funnel("reports").limit(1):
            assert len(places(app, "reports")) == 1
    finally:
        before.set_current()
    assert passages(app, "60:geocoder") == 1


# -- funnel


@both
def test_a_place_is_taken_for_the_block_and_free_afterwards(app: Celery, go_through: Callable[[Any], None]) -> None:
    block = funnel("reports", app).limit(1)
    go_through(block)
    go_through(block)
    with funnel("reports", app).limit(1), pytest.raises(LimitTimeoutError, match=r"no free place of 1\.") as caught:
        go_through(block)
    assert caught.value.available_in == pytest.approx(60)
    assert places(app, "reports") == []


@both
def test_a_place_is_free_again_after_an_exception(app: Celery, go_through: Callable[[Any], None]) -> None:
    with pytest.raises(ValueError, match="inside"), funnel("reports", app).limit(1):
        raise ValueError("inside")
    go_through(funnel("reports", app).limit(1))


@both
def test_so_many_at_one_time(app: Celery, go_through: Callable[[Any], None]) -> None:
    block = funnel("reports", app).limit(2)
    with block, block:
        assert len(places(app, "reports")) == 2
        with pytest.raises(LimitTimeoutError):
            go_through(block)
    go_through(block)


@both
def test_a_place_of_one_who_died_is_free_after_its_time(
    app: Celery, time: Clock, waits: list[float], go_through: Callable[[Any], None]
) -> None:
    funnel("reports", app).limit(1).release_after(20).__enter__()  # and never leaves
    with pytest.raises(LimitTimeoutError, match="within 5 s"):
        go_through(funnel("reports", app).limit(1).block(5))
    assert sum(waits) == pytest.approx(5)
    go_through(funnel("reports", app).limit(1).block(20))
    assert sum(waits) == pytest.approx(20, abs=0.2)


def test_who_outstays_its_time_does_not_free_the_place_of_the_next(app: Celery, time: Clock) -> None:
    first, second = funnel("reports", app).limit(1).release_after(5), funnel("reports", app).limit(1)
    first.__enter__()
    time.now += 6
    second.__enter__()
    first.__exit__()
    assert len(places(app, "reports")) == 1
    second.__exit__()
    assert places(app, "reports") == []


def test_a_funnel_used_by_several_threads_never_lets_in_more(app: Celery) -> None:
    block = funnel("reports", app).limit(3).block(60)
    inside, most, mutex = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with block:
                with mutex:
                    inside += 1
                    most = max(most, inside)
                real_time.sleep(0)
                with mutex:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most <= 3
    assert places(app, "reports") == []


def test_a_block_may_be_left_in_another_thread_than_it_was_entered_in(app: Celery) -> None:
    """As blocks of generators are, which web frameworks run in a pool of threads."""
    block = funnel("reports", app).limit(2)
    block.__enter__()
    with block:
        thread = threading.Thread(target=block.__exit__)
        thread.start()
        thread.join()
        assert len(places(app, "reports")) == 1
    assert places(app, "reports") == []


def test_coroutines_share_a_funnel_without_stopping_the_loop(app: Celery, waits: list[float]) -> None:
    block = funnel("reports", app).limit(2).block(60)
    inside, most = 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with block:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(8)))

    asyncio.run(main())
    assert most == 2
    assert places(app, "reports") == []


def test_a_coroutine_cancelled_while_it_takes_a_place_gives_it_back(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = store_of(app).locks
    acquire = locks.acquire
    has_begun, may_end = threading.Event(), threading.Event()

    def slowly(request: Any) -> Any:
        has_begun.set()
        assert may_end.wait(30)
        return acquire(request)

    monkeypatch.setattr(locks, "acquire", slowly)

    async def main() -> None:
        waiter = asyncio.ensure_future(go_through())
        await asyncio.to_thread(has_begun.wait, 30)
        waiter.cancel()
        await asyncio.sleep(0)
        waiter.cancel()  # an impatient caller
        await asyncio.sleep(0)
        assert not waiter.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    async def go_through() -> None:
        async with funnel("reports", app).limit(1):
            pytest.fail("it was cancelled before")

    asyncio.run(main())
    assert places(app, "reports") == []


@both
def test_a_store_that_is_gone_on_leaving_changes_nothing(
    app: Celery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    go_through: Callable[[Any], None],
) -> None:
    def release(*args: Any, **options: Any) -> Any:
        raise StoreUnavailableError("redis://here")

    monkeypatch.setattr(store_of(app).locks, "release", release)
    go_through(funnel("reports", app).limit(1))
    assert "A place in 'funnel:reports' could not be given up, and ends by itself" in caplog.text


@both
@pytest.mark.parametrize(
    "make", [lambda app: throttle("x", app).allow(1).every(1).block(5), lambda app: funnel("x", app).limit(1).block(5)]
)
def test_a_store_that_is_gone_on_entering_is_an_error(
    app: Celery, monkeypatch: pytest.MonkeyPatch, go_through: Callable[[Any], None], make: Callable[[Celery], Any]
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise StoreUnavailableError("redis://here")

    monkeypatch.setattr(store_of(app).limits, "take", fail)
    monkeypatch.setattr(store_of(app).locks, "acquire", fail)
    with pytest.raises(StoreUnavailableError):
        go_through(make(app))


def test_a_funnel_without_a_limit_says_so(app: Celery) -> None:
    with pytest.raises(ConfigurationError, match=r"funnel\('x'\) does not say \.limit"):
        enter(funnel("x", app))


def test_those_who_look_at_the_locks_see_a_funnels_places(app: Celery) -> None:
    seen: list[Any] = []

    @app.task(name="build_report")
    def build_report() -> None:
        with funnel(("reports", 7), app).limit(1).release_after(30):
            seen.extend(places(app, '["reports", 7]'))

    build_report.apply(throw=True)
    [record] = seen
    assert (record.kind, record.task, record.is_lease) == ("funnel", "build_report", False)
    assert (record.expires_at - record.taken_at).total_seconds() == pytest.approx(30)
