"""Unique jobs where they are dispatched: the lock is taken in the step that decides, and kept for the job's id."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery_laravel.attempt import unique
from celery_laravel.attempt.running_job import RUNNING
from celery_laravel.dispatch.job_keys import key_suffix
from celery_laravel.errors import ConfigurationError
from celery_laravel.message.durations import in_seconds, is_duration
from celery_laravel.message.payload import dump_arguments
from celery_laravel.message.unique_options import LATEST
from celery_laravel.middleware.keys import shortened
from celery_laravel.stores.records import LockRequest

if TYPE_CHECKING:
    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.message.header import Header
    from celery_laravel.stores.contracts import LockStore
    from celery_laravel.stores.records import LockAnswer

logger = logging.getLogger("celery_laravel.unique")

PENDING = timedelta(seconds=60)
"""How long a dispatch holds a lock before its message is out; should its process die in between, it is free then."""


@dataclass
class UniqueDispatch:
    """The lock of one dispatch, which is taken, kept or given up."""

    locks: LockStore
    request: LockRequest
    unique_for: timedelta | None
    own_attempt: RunningJob | None = None
    """The running attempt of the same job, when it dispatches itself under its own id."""

    def take(self) -> str | None:
        """Take the lock; None when it was taken, else the id of the job that holds it.

        Raises:
            StoreUnavailableError: The store did not answer. Nothing is to be published.
        """
        answer = self.locks.acquire(self.request)
        if not answer.acquired:
            return answer.owner
        if self.own_attempt is not None:
            self.own_attempt.is_handed_on = True
        return None

    def take_and_push(self, target: str, message: str) -> LockAnswer:
        """Take the lock for as long as it is to be held and push the job's message, in one step, or learn who holds it.

        Raises:
            StoreUnavailableError: The store did not answer. Both have been done, or neither.
        """
        request = replace(self.request, ttl=self.unique_for)
        return self.locks.acquire_and_push(request, target=target, message=message)

    def written_into(self, header: Header) -> Header:
        """The header of a message that holds this lock."""
        seconds = None if self.unique_for is None else self.unique_for.total_seconds()
        header = replace(header, unique=self.request.key, unique_for=seconds)
        if self.own_attempt is not None:  # a first turn of this id would be taken for a late copy
            header = replace(header, turn=self.own_attempt.header.turn + 1)
        return header

    def confirm(self) -> None:
        """Keep the lock for as long as the job is queued, now that its message is out.

        Should that fail, the lock lasts for a minute, or for ``unique_for``; the
        job is on its way whatever becomes of the lock.
        """
        if self.unique_for is not None:
            return
        try:
            self.locks.confirm(self.request.key, owner=self.request.owner, ttl=None)
        except Exception:
            logger.exception("The unique lock %s of job %s is held for a minute only", *self._names)

    def hold_on(self) -> None:
        """Hold the lock of a job that is about to go back to its queue: until `confirm` for a minute, as at dispatch.

        A lock that was lost meanwhile is not taken from its new holder. A store
        that does not answer keeps no job from its queue: the lease then runs
        out, and the job takes the lock again when it starts.
        """
        try:
            self.locks.acquire(self.request)
        except Exception:
            logger.exception("The unique lock %s of job %s is held for a minute only", *self._names)

    def give_up(self) -> None:
        """Free the lock, as the message could not be published. What goes wrong here leaves the first exception."""
        if self.own_attempt is not None:  # whose lock it still is
            self.own_attempt.is_handed_on = False
            return
        try:
            self.locks.release([self.request.key], owner=self.request.owner)
        except Exception:
            logger.exception("The unique lock %s of job %s, which could not be published, is kept", *self._names)

    @property
    def _names(self) -> tuple[str, str]:
        return self.request.key, self.request.owner


def is_checked(task: Any, header: Header) -> bool:
    """Whether a dispatch takes a lock: one of a unique job that is no member of a batch and no callback of one."""
    return bool(task.job_options.unique) and header.batch_id is None and header.callback is None


def lock_of(  # noqa: PLR0917  the parts of one dispatch
    task: Any, task_id: str, args: Any, kwargs: Any, options: dict[str, Any], unique_for: Any
) -> UniqueDispatch:
    """The lock that a dispatch needs.

    Raises:
        TypeError: The arguments do not fit the task, or the key's value has no text of its own.
        EncodeError: The arguments of a ``latest`` job cannot be encoded.
    """
    declared = task.job_options.unique_for if unique_for is None else unique_for
    seconds = in_seconds(declared)
    ttl = timedelta(seconds=seconds) if seconds else None
    payload = None
    if task.job_options.unique == LATEST:
        serializer = options.get("serializer") or task.serializer or task.app.conf.task_serializer
        payload = dump_arguments(args, kwargs, serializer)
    key = unique.queued_key(shortened(task.name + key_suffix(task, args, kwargs), unique.LONGEST_NAME))
    request = LockRequest(key, task_id, unique.KIND, task.name, ttl or PENDING, payload=payload)
    return UniqueDispatch(unique.store_for(task).locks, request, ttl, _own_attempt(task, task_id))


def lock_of_waiting(task: Any, header: Header, job_id: str) -> UniqueDispatch | None:
    """The lock of a job that goes back to its queue; None where it has none, or one with a fixed end.

    A copy of a message, or a job that has not been started, holds what it holds.
    """
    key = header.unique
    if key is None or not header.turn or header.waits:
        return None
    if header.unique_for is not None and key != unique.running_key(key):
        return None
    request = LockRequest(key, job_id, unique.KIND, task.name, PENDING)
    return UniqueDispatch(unique.store_for(task).locks, request, None)


def check_unique_for(task: Any, unique_for: Any) -> None:
    """Refuse a ``unique_for`` of ``apply_async`` that makes no sense.

    Raises:
        ConfigurationError: It is no duration, or the task is not unique.
    """
    if unique_for is None:
        return
    if not is_duration(unique_for):
        msg = f"Task {task.name!r}: apply_async(unique_for={unique_for!r}) must be seconds or a timedelta."
        raise ConfigurationError(msg)
    if not task.job_options.unique:
        msg = (
            f"Task {task.name!r}: apply_async(unique_for={unique_for!r}), but the task is not unique. Add unique=True."
        )
        raise ConfigurationError(msg)


def _own_attempt(task: Any, task_id: str) -> RunningJob | None:
    request = task.request_stack.top
    if request is None or request.id != task_id:
        return None
    running: RunningJob | None = request.__dict__.get(RUNNING)
    if running is None or running.is_replaced:  # which neither holds a lock any more nor settles its id
        return None
    return running
