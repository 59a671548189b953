"""What is kept of batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

JSON = Any
"""A value that JSON can carry: what a store keeps it gives back equal."""


class MemberState(IntEnum):
    """Where a batch's member stands. The numbers are stored."""

    PENDING = 0
    SUCCEEDED = 1
    FAILED = 2
    SKIPPED = 3
    """It will never run: the chain it stands in ended before it."""


class Mark(NamedTuple):
    """Which callback of a batch is due: the ``position``-th of its ``kind``.

    ``occasion`` tells apart the calls of a kind that comes more than once: of
    ``progress`` the index of the member that succeeded, of ``failure`` the
    number of the batch's failure, from 1.
    """

    kind: str
    position: int
    occasion: int | None = None


@dataclass(frozen=True)
class Callback:
    """One call of a registered callback: what its `Mark` tells, and the signature.

    ``exception`` is that of a ``failure``, as data.
    """

    kind: str
    position: int
    signature: Mapping[str, JSON]
    occasion: int | None = None
    exception: Mapping[str, JSON] | None = None

    @property
    def mark(self) -> Mark:
        """What the store remembers it by until it has been sent."""
        return Mark(self.kind, self.position, self.occasion)


@dataclass(frozen=True)
class NewBatch:
    """A batch as it is created, before its first member is added.

    ``callbacks`` maps a kind to signatures as data, in the order they were
    registered. The kinds are those of `BatchStore`.
    """

    id: str
    name: str = ""
    options: Mapping[str, JSON] = field(default_factory=dict)
    callbacks: Mapping[str, Sequence[Mapping[str, JSON]]] = field(default_factory=dict)
    allows_failures: bool = False


FAILED_IDS_NAMED = 100
"""Of so many failed jobs a `BatchRecord` gives the ids; `BatchStore.failed_ids` gives those of all."""


@dataclass(frozen=True)
class BatchRecord:
    """A batch at one instant.

    ``total_jobs = succeeded + failed_jobs + skipped_jobs + pending_jobs`` holds
    in every record. ``failed_job_ids`` are in no particular order, and at most
    `FAILED_IDS_NAMED`: all of them, where no more have failed, so that a look at
    a batch costs the same whatever became of its members. ``is_open`` tells that
    its dispatch has not ended, so it cannot finish yet.
    """

    id: str
    name: str
    total_jobs: int
    pending_jobs: int
    failed_jobs: int
    skipped_jobs: int
    failed_job_ids: tuple[str, ...]
    options: Mapping[str, JSON]
    callbacks: Mapping[str, Sequence[Mapping[str, JSON]]]
    allows_failures: bool
    is_open: bool
    created_at: datetime
    cancelled_at: datetime | None
    finished_at: datetime | None
    first_exception: Mapping[str, JSON] | None


@dataclass(frozen=True)
class BatchChange:
    """What one step changed in a batch.

    ``changed`` is False when the step had been taken before: then nothing is
    due. ``due`` are the callbacks that this very step made due, in the order
    they are to be sent; the store remembers them as due until
    `BatchStore.mark_sent`.

    Of more than `FAILED_IDS_NAMED` failed jobs, ``batch.failed_job_ids`` may be
    empty here.
    """

    batch: BatchRecord
    changed: bool
    due: tuple[Callback, ...] = ()


@dataclass(frozen=True)
class DispatchEnd:
    """What is to be written down of a batch whose dispatch is over, or has failed midway.

    ``unsent`` are the members that were added and not sent, as ranges of indices
    (first, last). ``lost`` is an `add` that was not answered: the index of its
    first member, should nobody else have added any, and how many they are. Of a
    batch that ``is_incomplete`` at least one member is counted as never to run,
    so that ``then`` cannot be called.
    """

    batch_id: str
    closes: bool = False
    cancels: bool = False
    is_incomplete: bool = False
    unsent: tuple[tuple[int, int], ...] = ()
    lost: tuple[int, int] | None = None

    @classmethod
    def decode(cls, data: Mapping[str, JSON]) -> DispatchEnd:
        """What JSON has made of the fields."""
        lost = data.get("lost")
        unsent = tuple((first, last) for first, last in data.get("unsent", ()))
        return cls(**{**data, "unsent": unsent, "lost": None if lost is None else (lost[0], lost[1])})


@dataclass(frozen=True)
class MemberEnd:
    """The end of one member of a batch.

    ``skips`` are the indices of members that will never run because of it (the
    rest of a chain); ``exception`` is the failure as data, kept when it is the
    batch's first.
    """

    batch_id: str
    index: int
    job_id: str
    state: MemberState
    skips: tuple[int, ...] = ()
    exception: Mapping[str, JSON] | None = None
