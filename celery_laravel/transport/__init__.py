"""Brokers of this library's own, and kombu's names for them."""

from __future__ import annotations

_DATABASE = "celery_laravel.transport.database.transport:Transport"


def register() -> None:
    """Teach kombu the broker URLs that begin with ``database+``.

    kombu finds transports in a table of aliases and knows no entry points, so
    this is called when `celery_laravel` is imported. Nothing else is loaded
    until such a URL is used. The second call changes nothing.

    ``database+sqlite`` stands beside ``database`` because kombu takes the whole
    scheme for the alias when it fails over to the next of several URLs.
    """
    from kombu.transport import TRANSPORT_ALIASES

    for alias in ("database", "database+sqlite", "database+sqlite+pysqlite"):
        TRANSPORT_ALIASES[alias] = _DATABASE
