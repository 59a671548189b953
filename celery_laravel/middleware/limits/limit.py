"""``Limit``: so many starts in so many seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from celery_laravel.errors import ConfigurationError
from celery_laravel.message.durations import in_seconds, is_seconds
from celery_laravel.middleware.keys import key_text
from celery_laravel.stores.records import Window
from celery_laravel.stores.records.limits import MICROSECOND

if TYPE_CHECKING:
    from datetime import timedelta

_NAMED = {1.0: "per_second", 60.0: "per_minute", 3600.0: "per_hour", 86400.0: "per_day"}


@dataclass(frozen=True, repr=False)
class Limit:
    """At most ``allowed`` starts within each window of ``seconds``, counted under ``key``; None is no limit.

    Made by its class methods. A limit without a key is shared by all jobs of
    its limiter; limits of different lengths are counted apart, even under the
    same key.

        Limit.per_minute(100)
        Limit.per_hour(1).by(user_id)
        Limit.per(30, 5).by((tenant_id, region))

    Raises:
        ConfigurationError: The number is not whole or below 1, or the seconds
            are not above 0.
    """

    allowed: int | None
    seconds: float = 0.0
    key: str = ""

    def __post_init__(self) -> None:
        if self.allowed is None:
            return
        if not is_count(self.allowed):
            msg = (
                f"A limit allows a whole number of starts, 1 or more, not {self.allowed!r}. "
                "To let no job start, use Skip or Release; for no limit, Limit.none()."
            )
            raise ConfigurationError(msg)
        if not is_seconds(self.seconds) or self.seconds < MICROSECOND:
            raise ConfigurationError(f"A limit's window lasts seconds above 0, or a timedelta, not {self.seconds!r}.")

    @classmethod
    def per_second(cls, allowed: int) -> Limit:
        """So many starts a second."""
        return cls(allowed, 1.0)

    @classmethod
    def per_minute(cls, allowed: int) -> Limit:
        """So many starts a minute."""
        return cls(allowed, 60.0)

    @classmethod
    def per_hour(cls, allowed: int) -> Limit:
        """So many starts an hour."""
        return cls(allowed, 3600.0)

    @classmethod
    def per_day(cls, allowed: int) -> Limit:
        """So many starts in 24 hours."""
        return cls(allowed, 86400.0)

    @classmethod
    def per(cls, seconds: float | timedelta, allowed: int) -> Limit:
        """So many starts in so many seconds, or in a timedelta."""
        length = in_seconds(seconds)
        return cls(allowed, float(length) if is_seconds(length) else length)

    @classmethod
    def none(cls) -> Limit:
        """No limit: the store is not asked."""
        return cls(None)

    def by(self, key: Any) -> Limit:
        """The same limit, counted apart for each key: a plain value, or a tuple of them.

        Raises:
            TypeError: The key is an object whose text may differ between
                processes.
        """
        return replace(self, key=key_text(key))

    def windows(self) -> tuple[Window, ...]:
        """What to ask the store for: nothing without a limit."""
        if self.allowed is None:
            return ()
        window = Window(f"{length_text(self.seconds)}:{self.key}", self.allowed, self.seconds)
        return (window,)

    def __repr__(self) -> str:
        by = f".by({self.key!r})" if self.key else ""
        if self.allowed is None:
            return f"Limit.none(){by}"
        name = _NAMED.get(self.seconds)
        arguments = f"{self.allowed}" if name else f"{length_text(self.seconds)}, {self.allowed}"
        return f"Limit.{name or 'per'}({arguments}){by}"


def is_count(value: Any) -> bool:
    """Whether a value is a whole number, 1 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def length_text(seconds: float) -> str:
    """Seconds without a fraction that says nothing: ``60`` for 60.0."""
    return str(int(seconds)) if seconds == int(seconds) else repr(seconds)
