"""How an engine is opened: drivers, pools, and connections that the server has closed meanwhile."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, exc
from sqlalchemy.pool import StaticPool

from celery_laravel.errors import ConfigurationError
from celery_laravel.stores.drivers import has_something_to_read

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.engine import URL

    from celery_laravel.stores.sqlalchemy.dialects.contract import Dialect

_DRIVERS = {"postgresql": ("psycopg2", "psycopg"), "mysql": ("MySQLdb", "pymysql")}
"""For a URL that names no driver: the module SQLAlchemy would take, and the one this library's extras install."""
_EXTRAS = {"postgresql": "postgresql", "mysql": "mysql", "sqlite": "sqlalchemy"}


def with_installed_driver(url: URL) -> URL:
    """The URL with the driver it leaves open, and MariaDB by the name of MySQL, whose dialect speaks to both."""
    database, plus, driver = url.drivername.partition("+")
    database = "mysql" if database == "mariadb" else database
    if not plus and database in _DRIVERS:
        usual, ours = _DRIVERS[database]
        driver = ours if find_spec(usual) is None or find_spec(ours) is not None else ""
    return url.set(drivername=f"{database}+{driver}" if driver else database)


def is_in_memory(url: URL) -> bool:
    """Whether a URL is that of an SQLite database in this process's memory."""
    if url.get_backend_name() != "sqlite":
        return False
    return (
        (url.database or ":memory:") == ":memory:"
        or url.query.get("mode") == "memory"
        or ":memory:" in str(url.database)
    )


def open_engine(url: URL, dialect: Dialect, shown: str) -> Engine:
    """An engine that has not connected yet.

    Raises:
        ConfigurationError: The driver is not installed.
    """
    options: dict[str, Any] = {"poolclass": StaticPool}
    if not is_in_memory(url):
        # The connections used last are used first, so that those which a burst opened grow old together.
        options = {"pool_size": 10, "max_overflow": 20, "pool_timeout": 30, "pool_use_lifo": True}
    try:
        engine = create_engine(
            url,
            isolation_level=dialect.isolation,
            connect_args=dialect.arguments(url),
            pool_reset_on_return=None,  # every use ends with a commit or a rollback, and one more costs a round trip
            hide_parameters=True,  # they hold people's data, and an error's text ends in logs
            **options,
        )
    except ModuleNotFoundError as error:
        extra = _EXTRAS[dialect.name]
        msg = (
            f"The store {shown!r} needs the module {error.name!r}, which is not installed: "
            f"pip install 'celery-laravel[{extra}]'."
        )
        raise ConfigurationError(msg) from error

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        dialect.prepare(connection)

    @event.listens_for(engine, "checkout")
    def look(connection: Any, _record: Any, _proxy: Any) -> None:
        _refuse_stale(engine, dialect, connection)

    @event.listens_for(engine, "handle_error")
    def explain(context: Any) -> None:
        folder = _missing_folder(url) if "unable to open database file" in str(context.original_exception) else None
        if folder is not None:
            msg = (
                f"The folder {str(folder)!r} of the store {shown!r} does not exist. Make it, or change 'laravel_store'."
            )
            raise ConfigurationError(msg) from context.original_exception

    return engine


def _refuse_stale(engine: Engine, dialect: Dialect, connection: Any) -> None:
    """Have the pool connect anew where the server has closed the connection.

    A server that restarts, or ends a session, closes the socket; that can be
    seen without asking the server, which would cost a round trip each time.
    """
    descriptor = dialect.descriptor(connection)
    if descriptor is None:
        return
    if not has_something_to_read(descriptor):
        return
    try:  # something waits to be read: the end, or a notice
        is_alive = engine.dialect.do_ping(connection)
    except Exception as error:
        raise exc.InvalidatePoolError from error
    if not is_alive:
        raise exc.InvalidatePoolError


def _missing_folder(url: URL) -> Path | None:
    if is_in_memory(url) or not url.database or url.database.startswith("file:"):
        return None
    folder = Path(url.database).absolute().parent
    return None if folder.is_dir() else folder
