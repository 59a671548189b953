"""Debounced jobs where they are dispatched: each is delayed, and tells the store that it is the newest."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery.utils.time import maybe_make_aware

from celery_laravel import clock
from celery_laravel.dispatch.job_keys import key_suffix
from celery_laravel.middleware.keys import shortened
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from celery_laravel.message.header import Header
    from celery_laravel.stores.contracts import DebounceStore
    from celery_laravel.stores.records import Place

logger = logging.getLogger("celery_laravel.debounce")

KEEP = timedelta(days=7)
"""How long the store knows who is the newest, beyond the delay: longer than a message waits in a stuck queue."""

_PREFIX = "debounce:"
_LONGEST_KEY = 255


@dataclass(frozen=True)
class DebouncedDispatch:
    """One dispatch's place among those of the same key."""

    debounces: DebounceStore
    key: str
    place: Place
    job_id: str
    keep: timedelta

    def written_into(self, header: Header) -> Header:
        """The header of a message with this place."""
        return replace(header, debounce=[self.key, self.place.period, self.place.number])

    def confirm(self) -> None:
        """Supersede the earlier dispatches, now that this one's message is out.

        Should that fail, they run as well: nothing is lost.
        """
        try:
            self.debounces.confirm(self.key, self.place, job_id=self.job_id, keep=self.keep)
        except Exception:
            logger.exception("Job %s is dispatched; the earlier ones under %s will run as well", self.job_id, self.key)


def is_debounced(task: Any, header: Header) -> bool:
    """Whether a dispatch is delayed and may be superseded: not that of a batch's member or callback."""
    return task.job_options.debounce_for is not None and header.batch_id is None and header.callback is None


def reserve(task: Any, task_id: str, args: Any, kwargs: Any, options: dict[str, Any]) -> DebouncedDispatch:
    """Reserve a place for a dispatch, and write its delay into the options of ``apply_async``.

    The delay is ``debounce_for``, or what the caller asked for where that is
    longer; ``max_wait`` bounds both.

    Raises:
        StoreUnavailableError: The store did not answer. Nothing is to be published.
        TypeError: The arguments do not fit the task, or the key's value has no text of its own.
    """
    wait = max(_as_timedelta(task.job_options.debounce_for), _asked_for(task, options))
    max_wait = task.job_options.max_wait
    key = shortened(_PREFIX + task.name + key_suffix(task, args, kwargs), _LONGEST_KEY)
    keep = KEEP + wait
    debounces = store_of(task.app).debounces
    place = debounces.reserve(key, wait=wait, max_wait=None if max_wait is None else _as_timedelta(max_wait), keep=keep)
    options.pop("eta", None)
    options["countdown"] = place.delay
    return DebouncedDispatch(debounces, key, place, task_id, keep)


def _asked_for(task: Any, options: dict[str, Any]) -> timedelta:
    countdown, eta = options.get("countdown"), options.get("eta")
    if countdown:
        return _as_timedelta(countdown)
    if isinstance(eta, str):
        eta = datetime.fromisoformat(eta)
    if eta is not None:
        return timedelta(seconds=maybe_make_aware(eta, task.app.timezone).timestamp() - clock.now())
    return timedelta(0)


def _as_timedelta(duration: float | timedelta) -> timedelta:
    return duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
