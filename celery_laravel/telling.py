"""How what asks the store again and again tells that it does not answer: once, and once when it does."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from celery_laravel.errors import CeleryLaravelError, StoreUnavailableError

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator


def log_failure(logger: logging.Logger, error: Exception, message: str, *args: object) -> None:
    """Log what failed: with a traceback, but for an outage of the store, which meets many jobs, in one line."""
    logger.error("%s: %s", message % args, error, exc_info=None if isinstance(error, StoreUnavailableError) else error)


class Telling:
    """Keeps what goes wrong from whoever does something again and again, and logs it.

    ``subject`` and ``done`` make the sentence: "The leases of running jobs"
    "cannot be", "could not be" or "are" "renewed".
    """

    def __init__(self, logger: logging.Logger, subject: str, done: str) -> None:
        self._logger = logger
        self._subject = subject
        self._done = done
        self._is_failing = False

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        """Try once. An error of this library's is told when it begins, anything else each time, with its traceback."""
        try:
            yield
        except CeleryLaravelError as error:
            if not self._is_failing:
                self._logger.warning("%s cannot be %s: %s", self._subject, self._done, error)
            self._is_failing = True
        except Exception:
            self._logger.exception("%s could not be %s", self._subject, self._done)
        else:
            if self._is_failing:
                self._logger.warning("%s are %s again", self._subject, self._done)
            self._is_failing = False
