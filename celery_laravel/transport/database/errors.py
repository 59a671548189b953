"""What can go wrong with a broker in a database, split by whether trying again helps."""

from __future__ import annotations

from kombu.exceptions import OperationalError

from celery_laravel.errors import CeleryLaravelError


class DatabaseBrokerError(CeleryLaravelError, OperationalError):
    """The broker's database did not do what was asked; nothing was half done.

    It is also kombu's ``OperationalError``, the one to catch around a dispatch
    whatever the broker.
    """


class BrokerUnavailableError(DatabaseBrokerError):
    """The database is locked, full or out of reach for now.

    Celery treats it as a lost connection: a worker connects again, a publisher
    tries again by its ``task_publish_retry_policy``.
    """

    is_passing = True
    """That trying again may help, and nothing has to be mended first."""
    may_be_done = True
    """False if it is certain that the change was not made: there was no connection to send it on."""


class BrokerContendedError(BrokerUnavailableError):
    """The change lost against others that wanted the same rows, and was undone: a deadlock, for instance.

    It is tried again a few times before anybody hears of it.
    """


class BrokerUnusableError(DatabaseBrokerError):
    """The database cannot serve as a broker until somebody mends it.

    A read-only file, a missing folder, a file that is no database: trying again
    would only hide it, so it goes straight to the caller.
    """


class MissingDependencyError(CeleryLaravelError, ImportError):
    """A package is missing that this URL needs; the message says what to install."""
