"""What the stores give back: plain values, the same whatever the back end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

JSON = Any
"""A value that JSON can carry: what a store keeps it gives back equal."""


class StartStatus(str, Enum):
    """What became of the wish to start an attempt."""

    STARTED = "started"
    RUNNING = "running"
    """Another copy of the job runs and its lease is alive."""
    RELEASED = "released"
    """This turn ended with the job put back, and nobody has seen the next: its message may have to be sent again."""
    OVER = "over"
    """The job has ended for good, or is already at a later turn: the message is a late copy."""


@dataclass(frozen=True)
class AttemptStart:
    """The answer of `AttemptStore.begin`.

    ``attempt`` and ``exceptions`` are, for STARTED, the number of this attempt
    (from 1) and the exceptions counted so far; for RELEASED, the attempts and
    exceptions that the next turn's message carries, and ``delay`` the seconds
    until it is due; for RUNNING, ``delay`` is how long the other copy's lease
    still lasts.
    """

    status: StartStatus
    attempt: int = 0
    exceptions: int = 0
    delay: float = 0.0


class MemberState(IntEnum):
    """Where a batch's member stands. The numbers are stored."""

    PENDING = 0
    SUCCEEDED = 1
    FAILED = 2
    SKIPPED = 3
    """It will never run: the chain it stands in ended before it."""


@dataclass(frozen=True)
class Callback:
    """One registered callback of a batch: the ``position``-th of its ``kind``."""

    kind: str
    position: int
    signature: Mapping[str, JSON]


@dataclass(frozen=True)
class NewBatch:
    """A batch as it is created, before its first member is added.

    ``callbacks`` maps a kind (``then``, ``catch``, ``finally``…) to signatures
    as data, in the order they were registered.
    """

    id: str
    name: str = ""
    options: Mapping[str, JSON] = field(default_factory=dict)
    callbacks: Mapping[str, Sequence[Mapping[str, JSON]]] = field(default_factory=dict)
    allows_failures: bool = False


@dataclass(frozen=True)
class BatchRecord:
    """A batch at one instant.

    ``total_jobs = succeeded + failed_jobs + skipped_jobs + pending_jobs`` holds
    in every record. ``failed_job_ids`` are in no particular order and as many
    as ``failed_jobs``. ``is_open`` tells that its dispatch has not ended, so it
    cannot finish yet.
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


FAILED_IDS_IN_CHANGE = 100
"""Up to so many failed jobs, a `BatchChange` names them all."""


@dataclass(frozen=True)
class BatchChange:
    """What one step changed in a batch.

    ``changed`` is False when the step had been taken before: then nothing is
    due. ``due`` are the callbacks that this very step made due, in the order
    they are to be sent; the store remembers them as due until
    `BatchStore.mark_sent`.

    Of more than `FAILED_IDS_IN_CHANGE` failed jobs, ``batch.failed_job_ids``
    may be empty here, so that a step costs the same however many failed
    before; `BatchStore.find` gives them all.
    """

    batch: BatchRecord
    changed: bool
    due: tuple[Callback, ...] = ()


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


@dataclass(frozen=True)
class AttemptEnd:
    """The end of a turn: the job has ended for good, or goes on with ``next_turn``.

    A job that goes on says with how many ``attempts`` and ``exceptions``
    behind it, and after which ``delay`` in seconds.
    """

    job_id: str
    turn: int
    is_final: bool
    attempts: int = 0
    exceptions: int = 0
    delay: float = 0.0


@dataclass(frozen=True)
class FailedJob:
    """A job that failed for good, as it is kept.

    ``payload`` is what is needed to run it again, lossless; ``exception`` begins
    with the name of the exception's class. ``args_repr`` and ``kwargs_repr``
    are what the sender chose to show (Celery's ``argsrepr`` and ``kwargsrepr``).
    """

    id: str
    connection: str
    queue: str
    task: str
    args_repr: str
    kwargs_repr: str
    exception: str
    traceback: str
    failed_at: datetime
    attempts: int
    batch_id: str | None
    payload: Mapping[str, JSON] = field(repr=False, default_factory=dict)
