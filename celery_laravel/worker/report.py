"""What a worker tells of itself when it is asked by remote control."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from celery.worker import state as worker_state
from celery.worker.request import Request

from celery_laravel import clock
from celery_laravel._version import __version__
from celery_laravel.message.header import NAME
from celery_laravel.settings import settings_of, without_password
from celery_laravel.worker.leases import copy_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

COMMAND = "laravel_report"
"""The remote control command. A worker without this library answers it with an error."""


def report(state: Any, **_: Any) -> dict[str, Any]:
    """Tell the version and the settings of celery-laravel, what runs, and how many jobs of which batch are here."""
    app, consumer = state.app, state.consumer
    settings = settings_of(app)
    here = _requests(consumer)
    return {
        "version": __version__,
        "now": clock.now(),
        "store": without_password(settings.store),
        "prefix": settings.prefix,
        "steps": sorted(_steps(consumer)),
        "queues": sorted(queue.name for queue in consumer.task_consumer.queues),
        "running": [job_id for job_id, _ in _jobs_of(copy_of(worker_state.active_requests))],
        "held": sum(not request.acknowledged for request in here),
        "batches": dict(Counter(batch_id for _, batch_id in _jobs_of(here) if batch_id is not None)),
    }


def _steps(consumer: Any) -> Iterator[str]:
    for step in consumer.blueprint.order:
        if type(step).__module__.startswith("celery_laravel."):
            yield type(step).__name__


def _requests(consumer: Any) -> set[Request]:
    """The jobs that run, wait for the pool, or are delayed in this worker's memory."""
    delayed = [waiting.entry.args[0] for waiting in list(consumer.timer.schedule.queue) if waiting.entry.args]
    known = {*copy_of(worker_state.reserved_requests), *copy_of(worker_state.active_requests)}
    return known.union(request for request in delayed if isinstance(request, Request))


def _jobs_of(requests: Iterable[Request]) -> Iterator[tuple[str, str | None]]:
    """The ids of jobs, and of their batches; a pack is as many as it has members."""
    for request in requests:
        packed = getattr(request, "jobs", None)
        if packed is not None:
            yield from packed
            continue
        header = request.request_dict.get(NAME)
        batch_id = header.get("batch_id") if isinstance(header, dict) else None
        yield request.id, batch_id if isinstance(batch_id, str) else None
