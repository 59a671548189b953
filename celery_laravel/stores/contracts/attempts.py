"""What a store does for attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from celery_laravel.stores.records import AttemptEnd, AttemptStart, LockRequest


class AttemptStore(Protocol):
    """How often each job has been started, so that a crash counts.

    A job goes through *turns*: turn 0 is its first message, and every time the
    job is put back (a release, a backoff, a retry) the next message carries the
    next turn, and how many attempts and exceptions lie behind it. The store
    remembers one entry a job: the turn it saw last, how many attempts were
    started, and how that turn ended. A message of an earlier turn is a copy of
    something that is over; a second start of the same turn means that the first
    one crashed.
    """

    def begin(
        self,
        job_id: str,
        *,
        turn: int,
        attempts: int,
        exceptions: int,
        owner: str,
        lease: timedelta,
        keep: timedelta,
        lock: LockRequest | None = None,
    ) -> AttemptStart:
        """Start the next attempt of a job, or say why not.

        ``attempts`` and ``exceptions`` are those the message says lie behind
        it. With no entry, or one of an earlier turn, attempt ``attempts + 1``
        starts. With an entry of this turn still open, the earlier start
        crashed, and the attempt after that one starts, unless its lease has
        not run out and is held by another ``owner`` (RUNNING). The entry is
        then held by ``owner`` for ``lease``; zero means that no copy is ever
        kept waiting. Where this turn has ended with the job put back, nothing
        changes and the answer is RELEASED; where it has ended for good, or the
        entry is of a later turn, OVER.

        With ``lock`` the attempt starts only if that lock can be taken, in the
        same step: another owner's hold makes it LOCKED, and nothing changes
        but the payload left with that hold (`LockStore.acquire`); an attempt
        that does not start for another reason leaves the lock alone.

        The entry is forgotten ``keep`` after the last change to it, and never
        while its lease lasts.
        """

    def end(self, end: AttemptEnd, *, keep: timedelta) -> bool:
        """End a turn; True when this call ended it.

        Of a final end a marker stays for ``keep``, so that a late copy of the
        message is recognised. Of any other the counts stay, for the delay and
        ``keep`` beyond it, so that the next message can be sent again should
        the worker die before it is out.
        Ending a turn that is over, or one the store does not know, changes
        nothing when a later turn is known, and otherwise leaves the same entry
        behind as the first time.
        """

    def renew(self, owners: Mapping[str, str], *, lease: timedelta) -> frozenset[str]:
        """Extend the leases of running attempts, given as job id to owner; return the ids that were still held.

        An id whose entry is gone, ended or held by another owner is left
        alone: the caller has lost it. A lease that has run out is held as long
        as nobody else has started the job. Renewing is a change: the entry is
        kept for what `begin` was given, counted from now.
        """

    def forestall(self, job_id: str, *, keep: timedelta) -> bool:
        """Keep a job of which no start is known from ever starting: its first turn is over, after no attempt.

        True when it is kept so, by this call or by an earlier one; False, and
        nothing changes, when it has started before. It is remembered for
        ``keep``, or until `forget`.
        """

    def forget(self, job_id: str) -> bool:
        """Drop what is known of a job, so that it starts at attempt 1 again; True when something was known."""

    def prune(self) -> int:
        """Remove entries that are past their keeping time; return how many: 0 where they expire by themselves."""
