"""The leases of a worker's children, as its parent sees them: whose to renew, and whose to end at once."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from celery.worker import state

from celery_laravel.attempt import leases

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_laravel.worker.request import JobRequest

_NO_PROCESS = 2**31
"""Ids of processes are below."""

_leaving: dict[JobRequest, float] = {}
"""Requests that Celery counts as over while their process may still live, and since when."""


def to_renew() -> tuple[list[str], dict[str, str]]:
    """What children may hold that is old enough to be renewed: owners of locks, and attempts as job id to owner.

    These are the children's that run a job since half an interval, so that a
    worker of short jobs makes no call of the store, and those that have been
    told to end and have not yet.
    """
    oldest = time.time() - leases.INTERVAL / 2
    active = copy_of(state.active_requests)
    started = [request for request in active if request.time_start and request.time_start <= oldest]
    owners: list[str] = []
    attempts: dict[str, str] = {}
    for request in (*_leaving, *started):  # of two starts of one job the later holds the lease
        owners += getattr(request, "kept_alive", ())
        attempts.update(getattr(request, "attempt", ()))
    return owners, attempts


def leave(request: JobRequest) -> None:
    """Go on renewing for a request that Celery counts as over, until its process is gone."""
    _leaving.setdefault(request, time.monotonic())


def left(request: JobRequest) -> None:
    """Take note that a request's process has ended."""
    _leaving.pop(request, None)


def gone() -> list[JobRequest]:
    """The requests whose process has ended since the last call; those that have outlived their job are let go of."""
    ended = []
    for request, since in list(_leaving.items()):
        if not is_alive(request.worker_pid):
            ended.append(request)
            left(request)
        elif time.monotonic() - since > leases.LEASE.total_seconds() and not _awaits_result(request):
            left(request)
    return ended


def is_process(pid: int | None) -> bool:
    """Whether what Celery has for the id of a job's process is one: with greenlets it is an address in memory."""
    return pid is not None and pid < _NO_PROCESS


def is_alive(pid: int | None) -> bool:
    """Whether a process exists; one that has died counts until its parent has taken note.

    A greenlet that was told to end has done so: Celery waits for that.
    """
    if pid is None or not is_process(pid):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _awaits_result(request: JobRequest) -> bool:
    """Whether the pool still waits for the child to end the job."""
    result = request._apply_result and request._apply_result()  # noqa: SLF001  there is no other word of it
    return result is not None and not result.ready()


def copy_of(requests: Iterable[Any]) -> list[Any]:
    """The elements of a set that another thread may change meanwhile: where the broker's transport has no event loop.

    Nothing is lost should it change too often: these leases are renewed the
    next time.
    """
    for _ in range(10):
        try:
            return list(requests)
        except RuntimeError:  # changed size during iteration
            continue
    return []
