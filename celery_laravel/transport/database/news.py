"""What a process knows of new messages: its own, and others' where their database tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kombu.log import get_logger

from celery_laravel.transport.database.errors import DatabaseBrokerError
from celery_laravel.transport.database.forks import left_behind
from celery_laravel.transport.database.notices import Listener
from celery_laravel.transport.database.ticks import Ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from celery_laravel.transport.database.connection import Database

logger = get_logger(__name__)

# A worker that hears of new messages looks all the same, after so many seconds.
LONGEST_REST = 5.0
# What a notice begins with: whether all messages it tells of can be fetched now.
NOW, LATER = "=", "+"


class Version(NamedTuple):
    """What a look at the queues may be compared with.

    Attributes:
        messages: Differs once there may be messages to fetch.
        delays: Differs once one may be due earlier than was known.
    """

    messages: tuple[int, int]
    delays: tuple[int, int]


class Reader(NamedTuple):
    """Somebody who consumes in this process.

    Attributes:
        wake: Called, in any thread, when there may be messages.
        queues: Which queues these have to be of at the moment.
    """

    wake: Callable[[], None]
    queues: Callable[[], Collection[str]]


class News:
    """New messages of one broker, as far as this process has heard of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._readers: list[Reader] = []
        self._published = 0
        self._delayed = 0
        self._listener: Listener | None = None
        self._safety = Ticks(LONGEST_REST)

    # -- telling

    def announce(self, queues: Collection[str] = (), *, delayed: bool = False) -> None:
        """Tell everybody who consumes of new messages: this process, and others where the database can.

        ``delayed`` says that some of them are for later.

        What was published is stored already, so that a message nobody can be
        told of is no error: it is found by the next look.
        """
        self._notice(delayed=delayed)
        dialect = self._database.dialect
        if queues and dialect.has_notices:
            names = [(LATER if delayed else NOW) + queue for queue in sorted(queues)]
            try:
                self._database.run(lambda connection: dialect.notify(connection, self._database.tables, names))
            except DatabaseBrokerError as error:
                logger.debug("Could not tell of new messages: %s", error)

    def _notice(self, *, delayed: bool = True) -> None:
        """Make every look at `version` in this process see a change: the database reports only those of others."""
        self._published += 1
        self._delayed += delayed
        for reader in tuple(self._readers):
            reader.wake()

    # -- hearing

    def listen(self, reader: Reader) -> None:
        """Wake ``reader`` from now on."""
        with self._database.lock:
            self._readers.append(reader)
            dialect, tables = self._database.dialect, self._database.tables
            if self._listener is None and dialect.has_notices:
                self._listener = Listener(lambda: dialect.listen(tables), self._send, self._hear)

    def forget(self, reader: Reader) -> None:
        """Wake ``reader`` no more; what nobody listens to is closed, though others may still publish."""
        with self._database.lock:
            self._readers.remove(reader)
            if not self._readers:
                self.stop()

    def _send(self, names: Sequence[str]) -> None:
        with self._database.session() as connection:
            self._database.dialect.notify(connection, self._database.tables, names)

    def _hear(self, names: Collection[str] | None) -> bool:
        """Pass on what was heard, if anybody here consumes one of these queues, and say whether so."""
        if names is None:  # something may have been missed
            self._notice()
            return True
        consumed = {queue for reader in tuple(self._readers) for queue in reader.queues()}
        wanted = [name for name in names if name[1:] in consumed]
        if wanted:
            self._notice(delayed=any(name.startswith(LATER) for name in wanted))
        return bool(wanted)

    @property
    def is_listening(self) -> bool:
        """Whether new messages of other processes are heard of."""
        return self._listener is not None and self._listener.is_listening

    @property
    def is_polling(self) -> bool:
        """Whether `version` changes by the clock alone."""
        return not self._database.dialect.reports_changes and not self.is_listening

    def version(self) -> Version:
        """Something that differs from its last value once there may be new messages."""
        published, delayed = self._published, self._delayed
        if self.is_listening:
            safety = self._safety.now()
            return Version((published, safety), (delayed, safety))
        with self._database.session() as connection:
            changes = self._database.dialect.version(connection)
        return Version((published, changes), (published, changes))

    @property
    def published(self) -> int:
        """The part of `version` that costs nothing to look at."""
        return self._published

    # -- the end

    def begin_anew(self) -> None:
        """Have `version` change: the change counter of another connection may begin at the very same number."""
        self._published += 1

    def stop(self) -> None:
        """Close what listens."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None

    def leave_behind(self) -> None:
        """In a forked child: forget the parent's readers, and what listens for them."""
        left_behind.append(self._listener)
        self._listener = None
        self._readers = []
