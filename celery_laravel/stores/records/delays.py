"""What is kept of delayed jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta


@dataclass(frozen=True)
class NewDelay:
    """A message that is to wait for ``delay`` before it goes to its queue.

    ``entry`` names this waiting, and is made anew for each: a job may wait more
    than once, and two of the same id do not know of each other. ``message`` is
    text that whoever sends it understands; with a ``target`` it is what the
    store itself pushes to that list of its own server (see `DelayStore.server`).
    """

    entry: str
    job_id: str
    task: str
    queue: str
    message: str
    delay: timedelta
    target: str | None = None


def refuse_targets(delays: Sequence[NewDelay]) -> None:
    """What a store without a server of its own does with messages that it is to push to one.

    Raises:
        ValueError: One of them has a target.
    """
    if any(delay.target is not None for delay in delays):
        raise ValueError("this store pushes to no server: park messages without a target")


@dataclass(frozen=True)
class DelayRecord:
    """A message that waits. ``due_at`` and ``parked_at`` are instants of the store's clock."""

    entry: str
    job_id: str
    task: str
    queue: str
    message: str
    target: str | None
    due_at: datetime
    parked_at: datetime
    is_revoked: bool
