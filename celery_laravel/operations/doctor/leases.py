"""Locks whose holders are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_laravel.attempt.ownership import is_start_of
from celery_laravel.operations.doctor.findings import Finding, Level
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from celery_laravel.operations.doctor.examination import Examination

_MOST = 1000


def check_leases(found: Examination) -> None:
    """Tell of leases whose jobs no worker runs. Each ends by itself, so none is a problem."""
    if len(found.installed) < len(found.workers):
        return  # those without this library do not say what they run
    running = {job_id for worker in found.workers for job_id in worker.running}
    for lock in store_of(found.app).locks.all(limit=_MOST):
        if not lock.is_lease or lock.kind == "funnel":  # funnels are for code outside of jobs, too
            continue
        if not any(lock.owner == job_id or is_start_of(job_id, lock.owner) for job_id in running):
            problem = f"The lock {lock.key!r} ({lock.kind}, task {lock.task}) is held by a job that no worker runs."
            ends = "" if lock.expires_at is None else f" at {lock.expires_at.isoformat(timespec='seconds')}"
            advice = f"Nothing: it is a lease, and ends{ends}; `celery -A app laravel unlock {lock.key}` frees it now."
            found.findings.append(Finding("abandoned-lease", problem, advice, Level.NOTE, since=lock.taken_at))
