"""Brokers beside the app's own: ``connection_name=`` and the setting ``laravel_connections``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kombu import pools

from celery_laravel.errors import ConfigurationError
from celery_laravel.message.canvas import first_tasks_of
from celery_laravel.settings import settings_of

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Connection

OPTION = "connection_name"

_connections: WeakKeyDictionary[Celery, dict[str, Connection]] = WeakKeyDictionary()


def producers_of(app: Celery, name: str | None) -> Any:
    """The pool of producers that publish through a connection of that name; None stands for the app's own.

    One pool for each connection of the app, as large as ``broker_pool_limit``
    says, made anew in a forked process. Nothing connects before the first
    message.

    Raises:
        ConfigurationError: The setting ``laravel_connections`` has no such name.
    """
    if name is None:
        return app.producer_pool
    check_connection(app, name)
    known = _connections.setdefault(app, {})
    if name not in known:
        known[name] = app.connection_for_write(settings_of(app).connections[name])
    limit = app.pool.limit
    pool = pools.producers[known[name]]
    if pool.limit != limit:
        pool.limit = limit
    return pool


def check_connection(app: Celery, name: Any) -> None:
    """Refuse a name that is not one of the app's connections.

    Raises:
        ConfigurationError: It is not; the message lists those that are.
    """
    names = settings_of(app).connections
    if not isinstance(name, str) or name not in names:
        known = f"its names are {', '.join(map(repr, sorted(names)))}" if names else "it is empty"
        msg = (
            f"There is no connection {name!r} in the setting 'laravel_connections': {known}. "
            "Add it there, with the URL of its broker."
        )
        raise ConfigurationError(msg)


def forget_connections(app: Celery) -> None:
    """Make the connections anew the next time: the app's configuration has been changed."""
    _connections.pop(app, None)


def send_through(app: Celery, signature: Any, name: str) -> None:
    """Have those tasks of a signature that its dispatch sends go through a connection.

    What follows them is sent by the worker that runs them, through its own.

    Raises:
        ConfigurationError: There is no such connection, or a task is not known
            to this process, so that Celery would send it by name alone.
    """
    check_connection(app, name)
    for task in first_tasks_of(signature):
        if not hasattr(app.tasks.get(task["task"]), "job_options"):
            msg = (
                f"Task {task['task']!r} cannot be sent through the connection {name!r}: this process does not know it "
                "as a job. Import the module that declares it."
            )
            raise ConfigurationError(msg)
        task["options"][OPTION] = name
