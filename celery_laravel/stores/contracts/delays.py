"""What a store does for delayed jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from datetime import timedelta

    from celery_laravel.stores.records import DelayRecord, NewDelay


class DelayStore(Protocol):
    """Messages that wait until they are due, and then go to their queue.

    What it costs to find those that are due does not depend on how many wait.
    A message leaves in one of two ways. Where the store and the broker are one
    server, `move` pushes it to its queue in the step that forgets it. Anywhere
    else somebody claims it, publishes it and removes it, in that order: who
    dies in between has it published again once the claim has run out.
    """

    @property
    def server(self) -> Hashable | None:
        """The server to whose lists `move` pushes, by a name that tells it from others; None where there is none."""

    def park(self, delays: Sequence[NewDelay]) -> None:
        """Keep messages until they are due: all of them, or none. Entries that are there already are left alone."""

    def move(self, *, limit: int) -> int:
        """Push up to ``limit`` messages that are due and have a target, the longest due first; return how many.

        One that its list does not take (it is of another type) is logged by the
        caller's side of the store, and tried again after a while.
        """

    def claim(self, *, limit: int, lease: timedelta) -> list[DelayRecord]:
        """Up to ``limit`` messages that are due and have no target, the longest due first.

        Nobody else is given them before ``lease`` has passed. Should the answer
        be lost, they are given to somebody then.
        """

    def remove(self, entries: Sequence[str]) -> int:
        """Forget messages; return how many were there."""

    def revoke(self, entry: str, message: str) -> bool:
        """Have a message leave at once, as another that says that its job is revoked; False when it is not there.

        The second time changes nothing. One that is claimed leaves as it was if
        its claimer lives, and as this one otherwise.
        """

    def find(self, job_id: str) -> list[DelayRecord]:
        """The messages of one job, the first due first."""

    def all(self, *, queue: str | None = None, limit: int | None = None) -> list[DelayRecord]:
        """All messages that wait, the first due first."""

    def count(self, *, queue: str | None = None) -> int:
        """How many messages wait."""
