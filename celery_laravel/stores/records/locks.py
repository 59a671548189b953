"""What is kept of locks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime, timedelta


@dataclass(frozen=True)
class LockRequest:
    """A wish to hold a lock.

    ``key`` names the lock, ``owner`` is the token of whoever asks: only who
    knows it extends or frees the hold. ``kind`` (``unique``, ``overlap``,
    ``funnel``…) and ``task`` are for people who look at the list of locks.
    ``ttl`` is after what time the hold ends by itself, None for never; with
    ``is_lease`` it is a lease, which `LockStore.renew` extends. At most
    ``slots`` owners hold the lock at one time. ``payload`` is a text left with
    the holder when the lock is refused, the last one only.

    Raises:
        ValueError: There are no slots, or a lease lasts for ever.
    """

    key: str
    owner: str
    kind: str
    task: str = ""
    ttl: timedelta | None = None
    is_lease: bool = False
    slots: int = 1
    payload: str | None = None

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"lock {self.key!r}: slots={self.slots} lets nobody hold it; give 1 or more")
        if self.is_lease and self.ttl is None:
            raise ValueError(f"lock {self.key!r}: a lease needs a ttl, after which it ends unless it is renewed")


@dataclass(frozen=True)
class LockAnswer:
    """The answer to a `LockRequest`.

    When the lock was taken, ``owner`` is the one who asked, and ``was_held``
    tells that it was the holder already. When it was refused, ``owner`` is the
    holder whose hold ends first. ``expires_in`` is the seconds until that hold
    ends by itself, None for never.
    """

    acquired: bool
    owner: str
    expires_in: float | None = None
    was_held: bool = False


@dataclass(frozen=True)
class LockRecord:
    """One hold of a lock, for people to see. ``expires_at`` None means that it lasts until it is freed."""

    key: str
    owner: str
    kind: str
    task: str
    taken_at: datetime
    expires_at: datetime | None
    is_lease: bool
