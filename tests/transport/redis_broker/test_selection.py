"""Which apps use this transport, and which do not."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import kombu
import pytest
from celery import Celery
from celery.app.amqp import AMQP
from kombu.pools import connections, producers
from kombu.transport import redis as kombus
from kombu.transport.pyamqp import Transport as AMQPTransport

from celery_laravel import install
from celery_laravel.transport.redis.connection import Connection
from celery_laravel.transport.redis.transport import SentinelTransport, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    MakeApp = Callable[..., Celery]

pytestmark = [pytest.mark.matrix, pytest.mark.redis]


@pytest.fixture
def make_app(broker_url: str) -> Iterator[MakeApp]:
    made: list[Celery] = []

    def make(broker: Any = broker_url, *, installed: bool = True, **settings: Any) -> Celery:
        app = Celery("shop", broker=broker, set_as_current=False)
        app.conf.update(settings)
        made.append(install(app) if installed else app)
        return app

    yield make
    for app in made:
        app.close()


def transports(app: Celery) -> set[type[Any]]:
    """Of all the ways to a connection."""
    found = [app.connection_for_read(), app.connection_for_write(), app.connection(), app.connection().clone()]
    with app.producer_pool.acquire(block=True) as producer:
        found.append(producer.connection)
        return {connection.get_transport_cls() for connection in found}


def test_an_installed_app_reserves_safely_whichever_way_it_connects(make_app: MakeApp) -> None:
    assert transports(make_app()) == {Transport}


def test_it_does_not_matter_whether_the_app_has_connected_before(make_app: MakeApp) -> None:
    app = make_app(installed=False)
    assert app.amqp is not None
    assert transports(install(app)) == {Transport}


def test_the_setting_switches_it_off(make_app: MakeApp) -> None:
    assert transports(make_app(laravel_safe_redis=False)) == {kombus.Transport}


def test_other_apps_of_the_process_keep_kombus_and_share_no_pool_with_it(make_app: MakeApp) -> None:
    safe, plain = make_app(), make_app(installed=False)
    assert transports(plain) == {kombus.Transport}
    assert transports(safe) == {Transport}
    ours, theirs = safe.connection_for_write(), plain.connection_for_write()
    assert connections[ours] is not connections[theirs]
    assert producers[ours] is not producers[theirs]
    assert connections[ours] is connections[safe.connection_for_write()]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rediss://h:1/0?ssl_cert_reqs=none", Transport),
        ("redis+socket:///run/redis.sock", Transport),
        ("sentinel://h:1", SentinelTransport),
        ("amqp://h", AMQPTransport),
    ],
)
def test_the_url_decides_as_before(make_app: MakeApp, url: str, expected: type[Any]) -> None:
    connection = make_app(url).connection_for_read()
    assert connection.get_transport_cls() is expected
    assert connection.as_uri() == kombu.Connection(url).as_uri()


def test_the_url_is_shown_as_it_was_given(make_app: MakeApp) -> None:
    connection = make_app("redis://user:secret@shop.example:6380/3").connection_for_read()
    assert connection.as_uri() == "redis://user:**@shop.example:6380/3"
    assert connection.info()["transport"] == "redis"


def test_failing_over_stays_with_it(make_app: MakeApp, broker_url: str) -> None:
    app = make_app(f"redis://127.0.0.1:1/0;{broker_url}")
    with app.connection_for_read() as connection:
        connection.ensure_connection(lambda *_: None, max_retries=4, interval_start=0)
        assert isinstance(connection.transport, Transport)
        assert connection.port == urlsplit(broker_url).port


def test_a_connection_survives_pickling(broker_url: str) -> None:
    connection = pickle.loads(pickle.dumps(Connection(broker_url)))
    assert connection.get_transport_cls() is Transport
    assert connection.as_uri() == Connection(broker_url).as_uri()


def test_an_app_survives_pickling(make_app: MakeApp) -> None:
    app = pickle.loads(pickle.dumps(make_app()))
    assert transports(app) == {Transport}


def test_a_transport_that_somebody_made_from_kombus_is_left_alone() -> None:
    class Theirs(kombus.Transport):
        pass

    assert Connection("redis://", transport=Theirs).get_transport_cls() is Theirs


def test_an_app_with_a_connection_class_of_its_own_keeps_it(make_app: MakeApp) -> None:
    class Mine(kombu.Connection):
        pass

    class WithMine(AMQP):
        Connection = Mine

    app = make_app(installed=False)
    app.amqp_cls = WithMine
    assert type(install(app).connection_for_read()) is Mine


def test_installing_loads_no_redis() -> None:
    code = (
        "import sys; from celery import Celery; import celery_laravel; celery_laravel.install(Celery('a'));"
        "print([name for name in sys.modules if name.split('.')[0] == 'redis' or 'transport.redis' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
