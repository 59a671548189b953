"""Unique locks whose messages are gone: nothing frees them, and every further dispatch is suppressed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.operations.doctor.findings import Finding, Level
from celery_laravel.operations.doctor.messages import count_messages
from celery_laravel.settings import settings_of
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from celery_laravel.operations.doctor.examination import Examination
    from celery_laravel.stores.records import LockRecord

_MOST = 1000
_SHOWN = 3
_YOUNG = timedelta(minutes=1)
"""A lock whose message is just being sent, or is between two places while they are counted."""


def check_unique_locks(found: Examination) -> None:
    """Find locks of queued jobs that are more than there are messages anywhere.

    Messages are counted and not looked into, so a lock whose message is gone is
    not noticed while as many others wait. Looks twice before it says so, as a
    job may go from one place to another meanwhile. A note only, as messages may
    wait in a queue that neither the app nor a worker names; says nothing where
    there may be more of those: with other brokers, with workers without this
    library, and with a broker that does not tell what it has delivered.
    """
    if settings_of(found.app).connections or len(found.installed) < len(found.workers) or not found.messages.held:
        return
    first = {lock.key for lock in _queued(found)}
    if len(first) <= _jobs(found):
        return
    queues = {task.queue for task in found.app.tasks.values() if isinstance(getattr(task, "queue", None), str)}
    found.messages = count_messages(found.app, {*found.messages.waiting, *queues})
    locks = [lock for lock in _queued(found) if lock.key in first]
    too_many = len(locks) - _jobs(found)
    if too_many <= 0:
        return
    keys = ", ".join(repr(lock.key) for lock in locks[:_SHOWN]) + (", …" if len(locks) > _SHOWN else "")
    which = "Unique locks are" if too_many == len(locks) else f"Of {len(locks)} unique locks {too_many} are"
    problem = (
        f"{which} held by jobs that wait in no queue known here, are with no worker and are not delayed: {keys}. "
        "Where their messages are gone (a queue was purged, the broker lost data) further dispatches are suppressed."
    )
    advice = (
        "If no job of theirs is in some other queue, free them: `celery -A app laravel unlock KEY`. "
        "`celery -A app laravel locks` lists them."
    )
    finding = Finding("unique-lock-without-job", problem, advice, Level.NOTE, since=locks[0].taken_at)
    found.findings.append(finding)


def _queued(found: Examination) -> list[LockRecord]:
    """The locks of jobs that are queued, without an end; the oldest first."""
    before = clock.as_datetime(clock.now()) - _YOUNG
    locks = store_of(found.app).locks.all(limit=_MOST)
    return [
        lock
        for lock in locks
        if lock.kind == "unique" and not lock.is_lease and lock.expires_at is None and lock.taken_at < before
    ]


def _jobs(found: Examination) -> int:
    """How many jobs may be queued: messages that wait or are held by somebody, and those that the store delays."""
    messages = found.messages
    return sum(messages.waiting.values()) + sum(messages.held.values()) + store_of(found.app).delays.count()
