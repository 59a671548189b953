"""The options of middleware: what they may be, refused where they are given rather than in a job."""

from __future__ import annotations

from typing import Any

from celery_laravel.errors import ConfigurationError
from celery_laravel.message.durations import in_seconds, is_seconds
from celery_laravel.message.functions import is_async
from celery_laravel.middleware.keys import key_of


def seconds_in(whose: str, option: str, value: Any) -> float:
    """The seconds of an option that is a number of them, or a timedelta.

    Raises:
        ConfigurationError: It is neither, or negative.
    """
    seconds = in_seconds(value)
    if not is_seconds(seconds):
        raise wrong(whose, option, "seconds or a timedelta, not negative", value)
    return float(seconds)


def check_flags(whose: str, **flags: Any) -> None:
    """Refuse options that are switches and neither True nor False; ``count_attempt`` may be None as well.

    Raises:
        ConfigurationError: Something else would pass for True.
    """
    for option, value in flags.items():
        may_be_none = option == "count_attempt"
        if not isinstance(value, bool) and not (may_be_none and value is None):
            raise wrong(whose, option, "True, False or None" if may_be_none else "True or False", value)


def refuse_async(whose: str, option: str, value: Any) -> None:
    """Refuse an async function where a plain one is called.

    Raises:
        ConfigurationError: What it gives would never be awaited, and would pass for True.
    """
    if is_async(value):
        raise wrong(whose, option, "a plain function, not an async one, as jobs run outside of an event loop", value)


def check_by(whose: str, by: Any) -> None:
    """Refuse a ``by`` that is no callable and cannot be a key, or is an async function.

    Raises:
        ConfigurationError: Its text may differ from process to process.
    """
    refuse_async(whose, "by", by)
    if callable(by):
        return
    try:
        key_of(by, _NO_JOB)
    except TypeError as error:
        raise ConfigurationError(f"{whose}: by = {error}") from error


def wrong(whose: str, option: str, wanted: str, value: Any) -> ConfigurationError:
    """The error for an option that is not what is wanted."""
    return ConfigurationError(f"{whose}: {option} must be {wanted}; it is {value!r}.")


class _NoJob:
    arguments: dict[str, Any] = {}  # noqa: RUF012  never written


_NO_JOB = _NoJob()
