"""The unique lock of a job: its keys, where it is kept, and how it is freed.

The lock's owner is the job's id, so that whatever carries that id (a retry, a
release, a second delivery) is the holder, and nobody else frees it. A message
that has a key in its header holds the lock; one that has none is not unique.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_laravel.attempt import leases
from celery_laravel.message.unique_options import LATEST, UNTIL_PROCESSING
from celery_laravel.stores.factory import store_at, store_of
from celery_laravel.stores.records import LockRequest
from celery_laravel.telling import log_failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.message.header import Header
    from celery_laravel.message.options import JobOptions
    from celery_laravel.stores.contracts import Store

logger = logging.getLogger("celery_laravel.unique")

KIND = "unique"
_QUEUED = "unique:"
_RUNNING = "unique-running:"
_ARGUMENTS = "unique-arguments:"

LONGEST_NAME = 255 - len(_RUNNING)
"""Stores take keys of up to 255 characters."""


def queued_key(name: str) -> str:
    """The key of the lock that a job takes when it is dispatched, for a name of at most `LONGEST_NAME` characters."""
    return _QUEUED + name


def running_key(key: str) -> str:
    """The key of the lock that a ``latest`` job takes when it starts; of such a key, itself."""
    return key if key.startswith(_RUNNING) else _RUNNING + key.removeprefix(_QUEUED)


def arguments_key(job_id: str) -> str:
    """Where the newest arguments of a ``latest`` job are kept once it has started, should it crash."""
    return _ARGUMENTS + job_id


def store_for(task: Any) -> Store:
    """The store that keeps a task's unique locks."""
    url = task.job_options.unique_via
    return store_of(task.app) if url is None else _store_elsewhere(task.app, url, task.name)


def urls_elsewhere(app: Celery) -> dict[str, str]:
    """The URLs of the stores that an app's tasks name by ``unique_via``, each with the name of such a task."""
    options = ((task.name, getattr(task, "job_options", None)) for task in app.tasks.values())
    return {found.unique_via: name for name, found in options if found is not None and found.unique_via is not None}


def stores_of(app: Celery) -> list[Store]:
    """The stores that keep an app's unique locks: its own, and those that its tasks name by ``unique_via``."""
    elsewhere = [_store_elsewhere(app, url, name) for url, name in urls_elsewhere(app).items()]
    return list({id(store): store for store in [store_of(app), *elsewhere]}.values())


def free_of_unknown_task(app: Celery, keys: Sequence[str], *, owner: str) -> None:
    """Free the lock of a job whose task this process does not know, nor therefore where it is kept.

    The stores that it knows are asked one after another. A lock that is in none of them is told of.

    Raises:
        StoreUnavailableError: One did not answer, and those before it did not have the lock.
    """
    if not any(store.locks.release(keys, owner=owner) for store in stores_of(app)):
        logger.warning(
            "The unique lock %s of job %s is in none of the stores that this worker knows: either it has ended, or the"
            " job's task, which is not registered here, keeps it elsewhere by unique_via. There it is held until its"
            " unique_for ends, or until 'celery laravel unlock' frees it.",
            keys[0],
            owner,
        )


def lease_for(task: Any, header: Header, job_id: str) -> LockRequest | None:
    """The lease that a job must have to start; None where it is not unique, or its hold has a fixed end."""
    if header.unique is None:
        return None
    key = header.unique
    if task.job_options.unique == LATEST:
        key = running_key(key)
    elif header.unique_for is not None:
        return None
    return LockRequest(key, job_id, KIND, task.name, leases.LEASE, is_lease=True)


def is_held_until_processing(options: JobOptions) -> bool:
    """Whether a job's lock is freed just before its code runs."""
    return options.unique == UNTIL_PROCESSING


def begin_processing(task: Any, running: RunningJob) -> None:
    """Free the lock of a job that was unique while it was queued; from here on nothing tells it from any other."""
    if running.header.unique is None or not is_held_until_processing(running.options):
        return
    try:
        free(task, running, soon=True)
    except Exception as error:
        log_failure(logger, error, "The unique lock of job %s is kept until the job ends", running.id)
        return
    running.header = replace(running.header, unique=None, unique_for=None)


def free(task: Any, running: RunningJob, *, soon: bool = False) -> None:
    """Free the lock of a job that has ended, or whose code begins; a second time there is nothing to free.

    With ``soon`` nobody waits for the store's answer.

    Raises:
        StoreUnavailableError: The store did not answer. A lease runs out by itself.
    """
    keys = keys_of(running)
    if not keys or running.is_handed_on or running.is_unlocked:
        return
    locks = store_for(task).locks
    if soon:
        locks.release_soon(keys, owner=running.id)
    else:
        locks.release(keys, owner=running.id)
    running.is_unlocked = True


def keys_of(running: RunningJob) -> list[str]:
    """The keys under which a job may hold something; none when it is not unique."""
    key = running.header.unique
    if key is None:
        return []
    if running.options.unique != LATEST:
        return [key]
    return list(dict.fromkeys([key, running_key(key), arguments_key(running.id)]))


def _store_elsewhere(app: Celery, url: str, task: str) -> Store:
    return store_at(app, url, named_by=f"Task {task!r}: unique_via")
