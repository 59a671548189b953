"""Which connections an app makes to its broker."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from celery_laravel.message.amqp import change_amqp
from celery_laravel.settings import settings_of, without_password
from celery_laravel.transport.database.errors import MissingDependencyError

if TYPE_CHECKING:
    from celery import Celery


_REDIS = frozenset({"redis", "rediss", "sentinel"})


def choose_connections(app: Celery) -> None:
    """Have an app connect to a Redis broker through this library's transport, unless its settings say otherwise.

    Concerns this app alone, and those of its connections that are made from
    now on. Nothing is loaded and no setting is read until the first is made.
    An app whose ``amqp_cls`` has a connection class of its own keeps it.
    """
    change_amqp(app, _give_connections)


def _give_connections(amqp: Any) -> None:
    amqp.Connection = partial(_connect, amqp.app, amqp.Connection)


def _connect(app: Celery, usual: type[Any], *args: Any, **kwargs: Any) -> Any:
    from kombu import Connection

    if usual is Connection and settings_of(app).safe_redis:
        from celery_laravel.transport.redis.connection import Connection as SafeConnection

        usual = SafeConnection
    _refuse_redis_without_its_client(args[0] if args else None)
    return usual(*args, **kwargs)


def _refuse_redis_without_its_client(url: Any) -> None:
    """Say what is missing, where kombu would speak of an attribute of None, or of what it imports first."""
    if not isinstance(url, str) or url.partition("://")[0] not in _REDIS:
        return
    try:
        import redis  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"The broker {without_password(url)} needs the Redis client, which is not installed ({error}). "
            "Install it with: pip install 'celery-laravel[redis]'"
        ) from error
