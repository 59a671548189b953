"""Servers that are stopped and started under load, and connections that are cut: jobs wait, and none is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
from celery.utils import uuid
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_laravel.testing.local_servers import redis_server
from celery_laravel.testing.processes import free_port, wait_until
from tests.chaos.proxy import Proxy
from tests.chaos.test_batches import Watched
from tests.chaos.test_locks import overlaps

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.chaos.ledger import Entry
    from tests.chaos.own_servers import OwnServer
    from tests.chaos.stage import Stage

pytestmark = [pytest.mark.redis, pytest.mark.timeout(300)]


def load(stage: Stage) -> tuple[str, list[str], str]:
    """Send jobs, and jobs of one overlap key: their key, their names, and the overlap key."""
    key, names, lock = str(uuid()), [f"{number}" for number in range(30)], str(uuid())
    for name in names:
        stage.sig("member3", key, name, "return", 0.05).apply_async()
    for name in names[:6]:
        stage.sig("overlap", lock, name, 0.1).apply_async()
    return key, names, lock


def expect_all(stage: Stage, entry: Entry, key: str, names: list[str], lock: str) -> None:
    """Every job is done, none was started more often than its tries, and none ran beside another of its key."""

    def all_done() -> bool:
        ends = {edge[1] for edge in stage.written(lock, "edges") if edge[0] == "end"}
        ended = {step["name"] for kind in ("done", "failed") for step in stage.written(key, kind)}
        return len(ends) >= 6 and ended >= set(names)

    try:
        wait_until(all_done, 90)
    except TimeoutError:
        ends = {edge[1] for edge in stage.written(lock, "edges") if edge[0] == "end"}
        entry.lost += ["overlap"] * (6 - len(ends))
    stage.wait_until_quiet(90)
    done = {step["name"] for step in stage.written(key, "done")}
    starts = [step["name"] for step in stage.written(key, "started")]
    entry.lost += sorted(set(names) - done)
    entry.expect(all(starts.count(name) <= 3 for name in set(starts)), "more starts than tries")
    entry.doubled += overlaps(stage.written(lock, "edges"))


def expect_all_through_a_stop(
    stage: Stage, server: OwnServer, entry: Entry, rng: random.Random, lengths: Sequence[float]
) -> None:
    """Stop a server at a random moment of work, for one of these lengths in seconds: nothing is lost or doubled."""
    stage.start()
    key, names, lock = load(stage)
    time.sleep(rng.uniform(0, 1))  # a random moment is the point
    with server.gone(rng.choice(lengths), entry):
        pass
    expect_all(stage, entry, key, names, lock)
    entry.judge()


def kinds(*names: str) -> list[Any]:
    """Kinds of servers, of which the short form takes the first."""
    marks = [pytest.mark.slow]
    return [names[0], *(pytest.param(name, marks=[getattr(pytest.mark, name), *marks]) for name in names[1:])]


@pytest.fixture(scope="module", params=kinds("redis", "rabbitmq", "postgresql", "mariadb"))
def own_broker(request: pytest.FixtureRequest, own: Callable[[str], OwnServer]) -> OwnServer:
    return own(request.param)


@pytest.fixture(scope="module")
def on_own_broker(make_stage: Any, own_broker: OwnServer) -> Stage:
    return make_stage(f"{own_broker.broker_url} × redis")  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=kinds("redis", "postgresql", "mariadb"))
def own_store(request: pytest.FixtureRequest, own: Callable[[str], OwnServer]) -> OwnServer:
    return own(request.param)


@pytest.fixture(scope="module")
def on_own_store(make_stage: Any, own_store: OwnServer) -> Stage:
    return make_stage(f"redis × {own_store.url}")  # type: ignore[no-any-return]


@pytest.mark.promise("a job is never lost: the broker stopped and started, with persistence")
@pytest.mark.short(1)
def test_a_broker_that_is_restarted_loses_nothing(
    on_own_broker: Stage, own_broker: OwnServer, entry: Entry, rng: random.Random
) -> None:
    entry.place = f"{own_broker.kind} × redis"
    expect_all_through_a_stop(on_own_broker, own_broker, entry, rng, [0, 1, 3])


@pytest.mark.promise("a delay is kept across restarts, and the job runs once")
@pytest.mark.short(1)
def test_a_delayed_job_runs_once(on_own_broker: Stage, own_broker: OwnServer, entry: Entry, rng: random.Random) -> None:
    """The delay is longer than the broker's visibility timeout, and lasts beyond a restart of everything."""
    entry.place = f"{own_broker.kind} × redis"
    stage = on_own_broker
    stage.start()
    key, names = str(uuid()), [f"{number}" for number in range(8)]
    due = time.time() + 9
    for name in names:
        stage.sig("member3", key, name).apply_async(countdown=9)
    time.sleep(rng.uniform(0, 1.5))  # a random moment is the point
    stage.kill()
    entry.fault("worker killed", len(stage.workers))
    with own_broker.gone(0, entry):
        pass
    stage.start()
    wait_until(lambda: {step["name"] for step in stage.written(key, "done")} >= set(names), 90)
    stage.wait_until_quiet()
    entry.expect(time.time() >= due, "a job ran before it was due")
    entry.expect_each(names, [step["name"] for step in stage.written(key, "started")])
    entry.judge()


@pytest.mark.promise("the store gone: jobs wait, none runs without its locks, none is lost")
@pytest.mark.short(1)
@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_jobs_wait_for_their_store(
    on_own_store: Stage, own_store: OwnServer, entry: Entry, rng: random.Random, seconds: float
) -> None:
    entry.place = f"redis × {own_store.kind}"
    expect_all_through_a_stop(on_own_store, own_store, entry, rng, [seconds])


@pytest.mark.promise("a batch is counted although its store was gone")
@pytest.mark.short(1)
def test_a_batch_outlives_an_outage_of_its_store(
    on_own_store: Stage, own_store: OwnServer, entry: Entry, rng: random.Random
) -> None:
    entry.place = f"redis × {own_store.kind}"
    stage = on_own_store
    stage.start()
    watched = Watched(stage, [("member3", f"{number}", "return", 0.1) for number in range(16)], is_watched=False)
    time.sleep(rng.uniform(0, 1))  # a random moment is the point
    with own_store.gone(rng.choice([1, 5]), entry):
        pass
    try:
        wait_until(lambda: {"then", "finally"} <= set(watched.called()), 90)
    except TimeoutError:
        entry.lost += [f"{watched.fresh().pending_jobs} members"]
    stage.wait_until_quiet()
    entry.doubled += ["callback"] * (len(watched.called()) - 2)
    entry.judge()


@pytest.fixture(scope="module", params=["redis", pytest.param("postgresql", marks=pytest.mark.slow)])
def proxies(request: pytest.FixtureRequest, server_url: Callable[[str], str]) -> Iterator[list[tuple[Proxy, str]]]:
    """A proxy before the broker, and one before the store, each with its URL."""
    made = [proxied(server_url("redis")), proxied(server_url(request.param))]
    yield made
    for proxy, _ in made:
        proxy.close()


@pytest.fixture(scope="module")
def behind_proxies(make_stage: Any, proxies: list[tuple[Proxy, str]]) -> Stage:
    return make_stage(" × ".join(url for _, url in proxies))  # type: ignore[no-any-return]


@pytest.mark.promise("nothing is lost or doubled when connections are cut and answers delayed")
@pytest.mark.short(1)
def test_cut_connections_lose_nothing(
    behind_proxies: Stage, proxies: list[tuple[Proxy, str]], entry: Entry, rng: random.Random
) -> None:
    entry.place = " × ".join(urlsplit(url).scheme.partition("+")[0] for _, url in proxies)
    stage = behind_proxies
    stage.start()
    for proxy, _ in proxies:
        proxy.delay = rng.choice([0, 0.01])
    key, names, lock = load(stage)
    for _ in range(5):
        time.sleep(rng.uniform(0, 0.6))  # a random moment is the point
        entry.fault("connections cut", rng.choice(proxies)[0].cut())
    expect_all(stage, entry, key, names, lock)
    entry.judge()


def proxied(url: str) -> tuple[Proxy, str]:
    parts = urlsplit(url)
    assert parts.port is not None
    proxy = Proxy(parts.port, parts.hostname or "127.0.0.1")
    return proxy, urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}")))


def test_a_proxy_hands_on_and_cuts(tmp_path: Path) -> None:
    """The suite's own tool, without which a cut would prove nothing."""
    port = free_port()
    server = redis_server(tmp_path, port)
    server.start()
    server.wait_for_log("Ready to accept connections")
    proxy = Proxy(port)
    client = redis.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0), single_connection_client=True)
    try:
        assert client.ping()
        assert proxy.cut() == 1
        with pytest.raises(redis.ConnectionError):
            client.ping()
        with proxy.refusing(), pytest.raises(redis.ConnectionError):
            client.ping()
        assert client.ping()
    finally:
        client.close()
        proxy.close()
        server.stop()
