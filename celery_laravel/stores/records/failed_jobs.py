"""What is kept of failed jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from celery_laravel.stores.records.batches import JSON


@dataclass(frozen=True)
class FailedJob:
    """A job that failed for good, as it is kept.

    ``payload`` is what is needed to run it again, lossless; ``exception`` begins
    with the name of the exception's class. ``args_repr`` and ``kwargs_repr``
    are what the sender chose to show (Celery's ``argsrepr`` and ``kwargsrepr``).

    ``attempts`` is how many there were: a job that is picked up once more than
    its ``tries`` allow, and fails for that, has used up as many as it had.

    ``claimed_until`` is set once somebody has begun to retry the job: until
    then nobody else can. A record that still has it afterwards is of a retry
    that was broken off, and its job may have been sent.
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
    claimed_until: datetime | None = field(compare=False, default=None)
