"""Servers of a run's own, which it stops as a crash would, freezes, and starts again with all they had acknowledged."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from redis import Redis
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from celery_laravel.testing.local_servers import redis_server
from celery_laravel.testing.processes import free_port, wait_until
from celery_laravel.transport.database.migrating import migrate
from celery_laravel.transport.database.options import BrokerOptions
from tests.servers.contract import ServerMissingError, start_and_wait
from tests.servers.servers import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from celery_laravel.testing.processes import ManagedProcess
    from tests.chaos.ledger import Entry

KEEPS_ALL = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")

STOPS = {
    "redis": signal.SIGKILL,
    "rabbitmq": signal.SIGKILL,
    "postgresql": signal.SIGQUIT,  # what `pg_ctl stop -m immediate` sends: nobody is waited for
    "mariadb": signal.SIGTERM,
}


class OwnServer:
    """A server on a port of its own that keeps what it has acknowledged over its stops."""

    def __init__(self, kind: str, url: str, process: ManagedProcess) -> None:
        self.kind, self.url, self.process = kind, url, process
        process.stop_signal = STOPS[kind]

    @property
    def broker_url(self) -> str:
        """Where it is as a broker; the tables that this takes are made."""
        if self.kind in {"redis", "rabbitmq"}:
            return self.url
        migrate(BrokerOptions(self.url))
        return f"database+{self.url}"

    @contextmanager
    def gone(self, seconds: float, entry: Entry) -> Iterator[None]:
        """Stop the server, let the caller look at what is left without it, and start it again when that is over."""
        began = time.monotonic()
        self.process.stop()
        entry.fault(f"{self.kind} stopped for {seconds:.0f} s")
        try:
            yield
            _wait_until(began + seconds)
        finally:
            self.process.start()
            start_again(self)

    @contextmanager
    def frozen(self, seconds: float, entry: Entry) -> Iterator[None]:
        """Let the server stand still: it takes connections and calls, and answers none for so many seconds."""
        pids = self._pids()
        thaw = threading.Timer(seconds, _signal, (pids, signal.SIGCONT))  # also should the caller wait for an answer
        _signal(pids, signal.SIGSTOP)
        thaw.start()
        entry.fault(f"{self.kind} frozen for {seconds:.0f} s")
        try:
            yield
            thaw.join()
        finally:
            thaw.cancel()
            _signal(pids, signal.SIGCONT)

    @contextmanager
    def read_only(self, seconds: float, entry: Entry) -> Iterator[None]:
        """Let the server refuse changes, as a replica does, for so many seconds; Redis has no scripts afterwards."""
        began = time.monotonic()
        self._refuse_changes(True)
        entry.fault(f"{self.kind} read-only for {seconds:.0f} s")
        try:
            yield
            _wait_until(began + seconds)
        finally:
            self._refuse_changes(False)

    def _refuse_changes(self, refuses: bool) -> None:
        if self.kind == "redis":
            with Redis.from_url(self.url) as client:
                client.execute_command("REPLICAOF", *(["127.0.0.1", "1"] if refuses else ["NO", "ONE"]))
                client.script_flush()
        else:
            engine = create_engine(self.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                value = "on" if refuses else "off"
                connection.exec_driver_sql(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
                connection.exec_driver_sql("SELECT pg_reload_conf()")

    def _pids(self) -> list[int]:
        main = psutil.Process(self.process.pid)
        return [main.pid, *(child.pid for child in main.children(recursive=True))]


def start_again(server: OwnServer) -> None:
    """Wait until a server that was started serves."""
    if server.kind == "redis":
        server.process.wait_for_log("Ready to accept connections")
    else:
        wait_until(lambda: _serves(server), 60, message=f"{server.kind} to serve again")


def _serves(server: OwnServer) -> bool:
    try:
        KINDS[server.kind].probe(server.url)
    except ServerMissingError:
        return False
    return True


@contextmanager
def own_server(kind: str, folder: Path) -> Iterator[OwnServer]:
    """Start a server of a kind; a test that asks for one that is not installed is skipped."""
    with _Noting() as closing:
        try:
            if kind == "redis":
                port = free_port()
                process = redis_server(folder, port, KEEPS_ALL)
                closing.callback(process.stop)
                url = start_and_wait(process, KINDS[kind], f"redis://127.0.0.1:{port}/0")
            else:
                url = KINDS[kind].start(closing)
        except (ServerMissingError, FileNotFoundError) as error:
            pytest.skip(f"needs {kind}: {error}")
        yield OwnServer(kind, url, closing.process)


class _Noting(ExitStack):
    """Remembers the process that it is to stop."""

    process: ManagedProcess

    def callback(self, callback: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.process = callback.__self__  # type: ignore[attr-defined]  # the process whose `stop` it is
        return super().callback(callback, *args, **kwargs)


def _wait_until(end: float) -> None:
    time.sleep(max(0.0, end - time.monotonic()))  # the length of an outage is the point


def _signal(pids: list[int], signum: int) -> None:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):  # a session's process, which has ended with its session
            psutil.Process(pid).send_signal(signum)
