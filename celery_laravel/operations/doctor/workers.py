"""What the workers tell of themselves when they are asked."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from celery_laravel import clock
from celery_laravel.settings import settings_of, without_password
from celery_laravel.worker.report import COMMAND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery


@dataclass(frozen=True)
class WorkerReport:
    """One worker's answer. One without this library has a name and nothing else."""

    name: str
    is_installed: bool = True
    version: str = ""
    ahead: float = 0.0
    """Seconds by which its clock is ahead of this machine's, for certain: what the answer took does not count."""
    store: str = ""
    prefix: str = ""
    steps: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    held: int = 0
    """Messages that it has not acknowledged yet."""
    batches: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as values that JSON can carry, without its lists of jobs and batches."""
        return {
            "name": self.name,
            "is_installed": self.is_installed,
            "version": self.version or None,
            "queues": list(self.queues),
            "running": len(self.running),
        }


def ask_workers(app: Celery, queues: Iterable[str], timeout: float) -> list[WorkerReport]:
    """Ask the workers of an app, and wait so many seconds for their answers.

    Those of other apps, which take from none of these queues and keep their
    records elsewhere, are left out.

    Raises:
        Exception: The broker's error; it cannot be reached.
    """
    asked = clock.now()
    since = time.monotonic()
    replies = app.control.broadcast(COMMAND, reply=True, timeout=timeout) or []
    answered = asked + time.monotonic() - since
    found = [_read(name, reply, asked, answered) for answer in replies for name, reply in answer.items()]
    if strangers := [worker.name for worker in found if not worker.is_installed]:
        taken = app.control.inspect(strangers, timeout=timeout).active_queues() or {}
        names = {name: tuple(queue["name"] for queue in given) for name, given in taken.items()}
        found = [replace(worker, queues=names.get(worker.name, worker.queues)) for worker in found]
    settings = settings_of(app)
    place, mine = (without_password(settings.store), settings.prefix), set(queues)
    ours = (worker for worker in found if (worker.store, worker.prefix) == place or mine.intersection(worker.queues))
    return sorted(ours, key=lambda worker: worker.name)


def _read(name: str, reply: Any, asked: float, answered: float) -> WorkerReport:
    if not isinstance(reply, dict) or "version" not in reply:
        return WorkerReport(name, is_installed=False)
    now = float(reply["now"])
    return WorkerReport(
        name,
        version=str(reply["version"]),
        ahead=now - min(max(now, asked), answered),
        store=str(reply["store"]),
        prefix=str(reply["prefix"]),
        steps=tuple(reply["steps"]),
        queues=tuple(reply["queues"]),
        running=tuple(reply["running"]),
        held=int(reply["held"]),
        batches={str(batch_id): int(count) for batch_id, count in reply["batches"].items()},
    )
