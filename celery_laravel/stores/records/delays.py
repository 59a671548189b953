"""What is kept of delayed jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
