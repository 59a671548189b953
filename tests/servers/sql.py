"""PostgreSQL and MariaDB: the area is a database."""

from __future__ import annotations

import getpass
import os
import pwd
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from celery_laravel.testing.processes import ManagedProcess, free_port
from tests.servers.areas import PREFIX, is_abandoned, new_area
from tests.servers.contract import Server, ServerMissingError, data_folder, program, run_to_end, start_and_wait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from sqlalchemy import Connection


class Sql:
    """What the two have in common."""

    name: str
    list_databases: str
    drop_database: str
    usual: tuple[str, ...]

    def probe(self, url: str) -> None:
        with _connection(url):
            pass

    def open_area(self, url: str, server: Server) -> str:
        from sqlalchemy import make_url, text

        area = new_area()
        with _connection(url) as connection:
            for name in connection.scalars(text(self.list_databases), {"prefix": f"{PREFIX}%"}).all():
                if is_abandoned(name):
                    connection.execute(text(self.drop_database.format(name)))
            connection.execute(text(f"CREATE DATABASE {area}"))
        server.closing.callback(self._drop, url, area)
        return make_url(url).set(database=area).render_as_string(hide_password=False)

    def _drop(self, url: str, area: str) -> None:
        from sqlalchemy import text

        with _connection(url) as connection:
            connection.execute(text(self.drop_database.format(area)))


class PostgreSQL(Sql):
    name = "postgresql"
    variable = "TEST_POSTGRESQL_URL"
    usual: tuple[str, ...] = (
        "postgresql+psycopg://postgres@127.0.0.1:5432/postgres",
        f"postgresql+psycopg://{getpass.getuser()}@127.0.0.1:5432/postgres",
    )
    package = "postgresql"
    list_databases = "SELECT datname FROM pg_database WHERE datname LIKE :prefix"
    drop_database = "DROP DATABASE IF EXISTS {} WITH (FORCE)"

    def start(self, closing: ExitStack) -> str:
        folders = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
        initdb, postgres = program("initdb", folders=folders), program("postgres", folders=folders)
        user = _unprivileged("postgres")
        folder = closing.enter_context(data_folder(user))
        data, port = folder / "data", free_port()
        run_to_end([initdb, "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync"], folder, user)
        process = ManagedProcess(
            [postgres, "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1", "-c", "fsync=off"],
            cwd=folder,
            log=folder / "log",
            user=user,
            stop_signal=signal.SIGINT,  # without waiting for clients, which SIGTERM does
        )
        closing.callback(process.stop)
        return start_and_wait(process, self, f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres")


class MariaDB(Sql):
    name = "mariadb"
    variable = "TEST_MARIADB_URL"
    usual: tuple[str, ...] = (
        "mysql+pymysql://root@127.0.0.1:3306/mysql",
        f"mysql+pymysql://{getpass.getuser()}@127.0.0.1:3306/mysql",
    )
    package = "mariadb-server"
    list_databases = "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE :prefix"
    drop_database = "DROP DATABASE IF EXISTS {}"

    def start(self, closing: ExitStack) -> str:
        install, daemon = program("mariadb-install-db", "mysql_install_db"), program("mariadbd", "mysqld")
        user = _unprivileged("mysql")
        folder = closing.enter_context(data_folder(user))
        data, port = folder / "data", free_port()
        login = "--auth-root-authentication-method=normal"  # with a password, which is empty
        run_to_end([install, "--no-defaults", f"--datadir={data}", login, "--skip-test-db"], folder, user)
        process = ManagedProcess(
            [
                daemon,
                "--no-defaults",
                f"--datadir={data}",
                f"--port={port}",
                "--bind-address=127.0.0.1",
                f"--socket={folder / 'socket'}",
                f"--pid-file={folder / 'pid'}",
                "--innodb-flush-log-at-trx-commit=0",
            ],
            cwd=folder,
            log=folder / "log",
            user=user,
        )
        closing.callback(process.stop)
        return start_and_wait(process, self, f"mysql+pymysql://root@127.0.0.1:{port}/mysql")


@contextmanager
def _connection(url: str) -> Iterator[Connection]:
    """A connection that commits each statement; it is closed, not pooled.

    Raises:
        ServerMissingError: The server does not answer or does not let us in, or its driver is not installed.
    """
    try:
        from sqlalchemy import create_engine, exc
        from sqlalchemy.pool import NullPool

        patience = {"connect_timeout": 5}
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=patience)
    except ImportError as error:
        msg = f"a Python package is not installed: {error}"
        raise ServerMissingError(msg) from error
    try:
        connection = engine.connect()
    except exc.OperationalError as error:
        msg = f"no way in at {engine.url}: {' '.join(str(error.orig).split())}"
        raise ServerMissingError(msg) from error
    with connection:
        yield connection


def _unprivileged(user: str) -> str | None:
    """Whom to run as: root starts these servers as ``user``, since they refuse to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(user)
    except KeyError:
        return "nobody"
    return user
