"""How a command ends: the exit codes, and errors as one clear line."""

from __future__ import annotations

import contextlib
from enum import IntEnum
from typing import TYPE_CHECKING

import click
from kombu.exceptions import OperationalError

from celery_laravel.cli.text import visible
from celery_laravel.errors import BatchNotFoundError, ConfigurationError, StoreUnavailableError
from celery_laravel.settings import without_password
from celery_laravel.transport.database.errors import BrokerUnusableError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


class Exit(IntEnum):
    """The exit codes that scripts may rely on; 2 is click's own, for wrong usage."""

    OK = 0
    NOT_DONE = 1
    """Something that was named does not exist, or could not be done."""
    UNAVAILABLE = 3
    """The store or the broker did not answer."""
    MISCONFIGURED = 4
    """A setting is wrong, an extra is missing, or the app has not been installed."""
    UNSUCCESSFUL = 5
    """The batch that was watched ended with failures, or cancelled."""
    INTERRUPTED = 130


class CommandError(click.ClickException):
    """Ends a command with a line on standard error and an exit code."""

    def __init__(self, message: str, code: Exit = Exit.NOT_DONE) -> None:
        super().__init__(visible(message))
        self.code = code

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click reads it from the instance
        """What click ends the process with."""
        return int(self.code)


@contextlib.contextmanager
def plain_errors(app: Celery) -> Iterator[None]:
    """Turn the errors that a user can do something about into `CommandError`.

    Any other is a bug, and stays a traceback.
    """
    try:
        yield
    except StoreUnavailableError as error:
        raise CommandError(str(error), Exit.UNAVAILABLE) from error
    except OperationalError as error:
        raise broker_unavailable(app, error) from error
    except (ConfigurationError, MissingDependencyError) as error:
        raise CommandError(str(error), Exit.MISCONFIGURED) from error
    except BatchNotFoundError as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt as error:
        raise CommandError("Interrupted.", Exit.INTERRUPTED) from error


def broker_unavailable(app: Celery, error: Exception, so_far: str = "") -> CommandError:
    """What to end with when the broker did not do what was asked; ``so_far``, what was done before, begins the line."""
    if isinstance(error, BrokerUnusableError):  # it is there, and its message says what to mend
        return CommandError(f"{so_far}{error}", Exit.MISCONFIGURED)
    urls = app.conf.broker_write_url or app.conf.broker_url or ""
    shown = ", ".join(without_password(url) for url in ([urls] if isinstance(urls, str) else urls))
    hint = "Is it running, and is 'broker_url' right?"
    return CommandError(f"{so_far}Cannot reach the broker at {shown} ({error}). {hint}", Exit.UNAVAILABLE)
