"""What a store does for debounced jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import timedelta

    from celery_laravel.stores.records import Place


class DebounceStore(Protocol):
    """Which of several dispatches under one key is the newest.

    The dispatches of a key are numbered within *periods*. In each, the one of
    the highest number that was confirmed is the newest, and only it is to run.
    A period ends when its newest starts, or when it has lasted for its longest
    wait; the next dispatch begins another, so that jobs dispatched without
    pause cannot keep each other from running for ever. A period is forgotten
    ``keep`` after the last place was reserved or confirmed in it, and a key
    with its last period: it begins at period 1 again.
    """

    def reserve(self, key: str, *, wait: timedelta, max_wait: timedelta | None, keep: timedelta) -> Place:
        """The next place under a key. It supersedes nobody before it is confirmed, so a dispatch that dies loses none.

        The delay is ``wait``, or less where the period would last longer than
        ``max_wait`` by it.
        """

    def confirm(self, key: str, place: Place, *, job_id: str, keep: timedelta) -> None:
        """Say that the job of a place has been published: those of lower numbers in its period are superseded."""

    def start(self, key: str, place: Place) -> str | None:
        """None when the job of a place may run, else the id of the newer job that superseded it.

        The period of one that may run is over, and those of lower numbers in it
        are superseded, should it have started before it was confirmed: they
        are told an empty id, as long as it is not. One that may run is told so
        however often it asks, whatever is confirmed meanwhile. A period that is
        not known any more keeps nobody from running.
        """

    def prune(self) -> int:
        """Remove keys past their keeping time; return how many: 0 where they go by themselves."""
