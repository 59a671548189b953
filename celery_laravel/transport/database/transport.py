"""What kombu calls a transport: a connection to the broker, its channels and its place in a worker's event loop."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from kombu.log import get_logger
from kombu.transport import virtual

from celery_laravel.errors import ConfigurationError
from celery_laravel.transport.database.errors import (
    BrokerUnavailableError,
    BrokerUnusableError,
    MissingDependencyError,
)
from celery_laravel.transport.database.options import PREFIX, BrokerOptions, read_options

try:
    import sqlalchemy
except ImportError as error:
    raise MissingDependencyError(
        "The database broker needs SQLAlchemy, and on a server its driver. Install them with: "
        "pip install 'celery-laravel[postgresql]', 'celery-laravel[mysql]' or, for SQLite, 'celery-laravel[sqlalchemy]'"
    ) from error

from celery_laravel.transport.database.channel import Channel
from celery_laravel.transport.database.connection import Database, close_database, open_database
from celery_laravel.transport.database.delayed import DelayedMessages
from celery_laravel.transport.database.dialects import dialect_for
from celery_laravel.transport.database.messages import Messages
from celery_laravel.transport.database.news import Reader
from celery_laravel.transport.database.queues import Queues
from celery_laravel.transport.database.settler import Settler
from celery_laravel.transport.database.waker import Waker
from celery_laravel.transport.keeper import LeaseKeeper

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kombu import Connection as KombuConnection

logger = get_logger(__name__)

DRIVER_TYPE = "database"
# How many messages one turn of the event loop delivers at most, so that control commands get theirs.
DELIVERIES_PER_TICK = 64
# A loop that is busy with its pool turns often; every turn is a chance to look, but not within so many seconds.
SHORTEST_LOOK_INTERVAL = 0.002
# A lease is renewed when a third of it has passed, and often enough to be told apart from a dead worker's.
LONGEST_RENEWAL_INTERVAL = 60.0


class Transport(virtual.Transport):
    """kombu's way to a ``database+…`` broker."""

    Channel = Channel
    can_parse_url = True  # or `Connection.as_uri` would not ask us, and would drop a URL's slashes
    driver_type = DRIVER_TYPE
    renews_what_it_holds = True
    keeps_delays = True
    driver_name = "sqlalchemy"
    implements = virtual.Transport.implements.extend(
        asynchronous=True,
        batch_publish=True,
        exchange_type=frozenset(["direct", "topic", "fanout"]),
        heartbeats=False,
    )
    connection_errors = (*virtual.Transport.connection_errors, BrokerUnavailableError)
    recoverable_connection_errors = connection_errors
    channel_errors = virtual.Transport.channel_errors
    recoverable_channel_errors = ()

    database: Database
    messages: Messages
    queues: Queues

    def __init__(self, client: KombuConnection, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.url = _url_of(client)
        self.options: BrokerOptions = read_options(self.url, client.transport_options)
        dialect = dialect_for(self.options)  # refuses what it cannot serve before anything is opened
        self.polling_interval = self.options.polling_interval or dialect.polling_interval
        self._is_open = False
        self._keeper: LeaseKeeper | None = None
        self._loop: Any = None
        self._timer_entry: Any = None
        self._waker: Waker | None = None
        self._reader: Reader | None = None
        self.settler: Settler | None = None
        self._next_look = 0.0
        self._seen_published = -1
        self._has_alternates = bool(client.alt)
        if self._has_alternates:
            _refuse_options_in(client.alt)
            # kombu keeps this prefix when it fails over, and would put it before another broker's URL.
            client.hostname, client.uri_prefix = PREFIX + self.url, None
        _let_workers_talk()

    # -- connection

    def establish_connection(self) -> Transport:
        """Open the database, creating the tables where that is its custom.

        Raises:
            BrokerUnavailableError: Trying again may help; kombu does.
            BrokerUnusableError: Somebody has to mend something first.
        """
        try:
            database = open_database(self.options)
        except BrokerUnusableError as error:
            if not self._has_alternates:
                raise
            raise BrokerUnavailableError(str(error)) from error  # the next URL may do
        self.database = database
        self.messages, self.queues = Messages(database), Queues(database)
        try:
            self._sweep()
            super().establish_connection()
        except BaseException:
            close_database(database)
            raise
        self._is_open = True
        self._keeper = LeaseKeeper(self._renew)
        return self

    def close_connection(self, connection: Any) -> None:
        """Put back what is not acknowledged and give the database back."""
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
        self._stop_ticking()
        super().close_connection(connection)
        if self._is_open:
            self._is_open = False
            close_database(self.database)

    def verify_connection(self, connection: Any) -> bool:
        """Whether the connection is established; it holds no socket that could have gone away."""
        return self._is_open

    def driver_version(self) -> str:
        """SQLAlchemy's version."""
        return sqlalchemy.__version__

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """What kombu copies into a clone whose own parameters it has lost, as it does on failing over."""
        return {"hostname": PREFIX + self.url}

    def as_uri(self, uri: str | None = None, include_password: bool = False, mask: str = "**") -> str:
        """The broker's URL, without its password unless asked for."""
        url = sqlalchemy.make_url(self.url)
        shown = url.render_as_string(hide_password=not include_password)
        return PREFIX + (shown if include_password else shown.replace(":***@", f":{mask}@", 1))

    # -- what is delayed

    @property
    def delayed(self) -> DelayedMessages:
        """The delayed messages, as they wait in the table."""
        return DelayedMessages(self.database)

    # -- leases

    def start_keeper(self) -> None:
        """See to it that what this connection holds is renewed from now on."""
        if self._keeper is not None:
            lifetimes = [ttl for channel in list(self.channels) for ttl in channel.expiring.values()]
            self._keeper.start(min(LONGEST_RENEWAL_INTERVAL, min([self.options.visibility_timeout, *lifetimes]) / 3))

    def _renew(self) -> None:
        for channel in list(self.channels):
            channel.renew()
        self._sweep()

    def _sweep(self) -> None:
        if swept := self.queues.sweep():
            logger.debug("Removed queues that nobody uses any more: %s", ", ".join(swept))

    # -- event loop

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Deliver from the worker's event loop, once a channel consumes."""
        self._loop = loop
        if any(channel.active_queues for channel in self.channels):
            self.start_ticking()

    def start_ticking(self) -> None:
        """Wake the loop at every polling interval; `_on_tick` runs on each of its turns."""
        if self._loop is not None and self._waker is None:
            self._loop.on_tick.add(self._on_tick)
            self._timer_entry = self._loop.call_repeatedly(self.polling_interval, _wake)
            self._waker = Waker(self._loop)
            self._reader = Reader(self._waker.wake, self._consumed)
            self.database.news.listen(self._reader)
            if not self.database.dialect.makes_its_tables:  # a server, whose answers are waited for
                self.settler = Settler(self._settle)

    def wake(self) -> None:
        """End the loop's sleep, if it is another thread's and sleeps."""
        waker = self._waker
        if waker is not None:
            waker.wake()

    def look_again_in(self, seconds: float) -> None:
        """End the loop's sleep when some time has passed."""
        if self._loop is not None:
            self._loop.call_later(seconds, _wake)

    def _stop_ticking(self) -> None:
        if self.settler is not None:
            self.settler.stop()
            self.settler = None
        if self._loop is not None:
            self._loop.on_tick.discard(self._on_tick)
            self._loop = None
        if self._reader is not None:
            self.database.news.forget(self._reader)
            self._reader = None
        if self._waker is not None:
            self._waker.close()
            self._waker = None
        if self._timer_entry is not None:
            self._timer_entry.cancel()
            self._timer_entry = None

    def _settle(self) -> None:
        for channel in list(self.channels):
            channel.settle_owed()

    def _consumed(self) -> set[str]:
        return {queue for channel in list(self.channels) for queue in channel.active_queues}

    def _on_tick(self) -> None:
        now = time.monotonic()
        look = now >= self._next_look or self.database.news.published != self._seen_published
        if look:
            self._next_look = now + SHORTEST_LOOK_INTERVAL
            self._seen_published = self.database.news.published
        elif not any(channel.has_more for channel in self.channels):
            return
        version = self.database.news.version()
        delivered = [channel.deliver(self._deliver, DELIVERIES_PER_TICK, version) for channel in list(self.channels)]
        if any(delivered) and self._waker is not None:
            # The pool may have had its part of this turn already, and sends jobs to its children in the next.
            self._waker.turn_again()


def _wake() -> None:
    """Nothing to do: a timer that fires ends the loop's sleep."""


def _url_of(client: KombuConnection) -> str:
    if client.hostname and "://" in client.hostname:
        return str(client.hostname).removeprefix(PREFIX)
    # After failing over, kombu has taken the URL apart and left the scheme in the transport's name.
    scheme = str(client.transport_cls).removeprefix(PREFIX)
    path = "" if client.virtual_host in {None, "/"} else client.virtual_host
    return f"{scheme}://{client.hostname or ''}/{path}"


def _refuse_options_in(urls: Iterable[str]) -> None:
    """Say beforehand what kombu would trip over when it fails over: it takes a query for arguments of its own."""
    for url in urls:
        if url.startswith(PREFIX) and "?" in url:
            raise ConfigurationError(
                "One of several broker URLs has options behind a question mark, which kombu cannot read when it "
                "fails over. Give them as broker_transport_options instead"
            )


def _let_workers_talk() -> None:
    """Turn gossip and mingle on for this broker.

    Celery has no capability to declare for it but two lists of transports, which
    a worker reads after it has made its first connection.
    """
    for module, step in (("gossip", "Gossip"), ("mingle", "Mingle")):
        loaded = sys.modules.get(f"celery.worker.consumer.{module}")
        if loaded is not None:
            getattr(loaded, step).compatible_transports.add(DRIVER_TYPE)
