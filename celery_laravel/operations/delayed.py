"""Delayed jobs: which wait, and calling one off."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from celery.utils.imports import instantiate
from kombu.exceptions import OperationalError

from celery_laravel import clock
from celery_laravel.errors import CeleryLaravelError, InvalidMessageError
from celery_laravel.message.header import NAME
from celery_laravel.message.parked import headers_of, is_marked_as_revoked, marked_as_revoked
from celery_laravel.settings import settings_of
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from celery import Celery

    from celery_laravel.stores.records import DelayRecord

logger = logging.getLogger("celery_laravel.delays")


@dataclass(frozen=True)
class DelayedJob:
    """A job that waits until it is due.

    ``parked_at`` is None for one that waits in the broker, which does not keep
    it. ``revoked`` says that the job has been called off, and is about to be
    settled.
    """

    id: str
    task: str
    queue: str
    args_repr: str
    kwargs_repr: str
    batch_id: str | None
    parked_at: datetime | None
    due_at: datetime
    revoked: bool


class DelayedJobs:
    """The jobs of an app that wait until they are due, in its store or in a database broker.

    What waits elsewhere is not among them: a delay shorter than
    ``laravel_durable_delay`` waits in a worker, save on the database broker,
    which keeps all delays. There a job is among them until a worker takes it,
    also when it is due and others are before it.

    All of this asks the store, and such brokers: the app's own and those of
    ``laravel_connections``. It raises `StoreUnavailableError` or kombu's
    ``OperationalError`` when one of them does not answer.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def all(self, queue: str | None = None, limit: int | None = None) -> list[DelayedJob]:
        """The jobs that wait, the first due first."""
        stored = () if self._is_untouched else store_of(self._app).delays.all(queue=queue, limit=limit)
        jobs = [_stored_job(record) for record in stored]
        for delayed in _kept_by_brokers(self._app):
            jobs += [_kept_job(message) for message in delayed.all(queue=queue, limit=limit)]
        return sorted(jobs, key=_due_at)[:limit]

    def count(self, queue: str | None = None) -> int:
        """How many jobs wait."""
        stored = 0 if self._is_untouched else store_of(self._app).delays.count(queue=queue)
        kept: int = sum(delayed.count(queue=queue) for delayed in _kept_by_brokers(self._app))
        return stored + kept

    def find(self, job_id: str) -> DelayedJob | None:
        """One job, or None; one that waits more than once, as it is due first.

        Brokers are asked only for a job that does not wait in the store.
        """
        stored = [] if self._is_untouched else store_of(self._app).delays.find(job_id)
        if stored:
            return _stored_job(stored[0])
        kept = [
            _kept_job(message)
            for delayed in _kept_by_brokers(self._app)
            for message in delayed.all(task_id=job_id, limit=1)
        ]
        return min(kept, key=_due_at, default=None)

    def cancel(self, job_id: str) -> bool:
        """Call a job off, for good; False when it does not wait.

        It leaves where it waits at once and is settled as any revoked job by the
        next worker: its state is ``REVOKED``, its batch has counted it, its
        chain has failed, its unique lock is free.
        """
        return revoke_waiting(self._app, [job_id]) > 0

    @property
    def _is_untouched(self) -> bool:
        return settings_of(self._app).store_is_untouched


def revoke_waiting(app: Celery, job_ids: Iterable[str]) -> int:
    """Mark delayed jobs that wait in the store, or in a broker that keeps delays, as revoked.

    Returns how many messages there were of them. Twice is once.

    Raises:
        StoreUnavailableError: The store did not answer; brokers have been asked.
        OperationalError: A broker did not answer; the store has been asked.
    """
    ids = list(job_ids)
    try:
        revoked = 0 if settings_of(app).store_is_untouched else _revoke_in_store(app, ids)
    finally:
        kept = _revoke_in_brokers(app, ids)
    return revoked + kept


def _revoke_in_brokers(app: Celery, job_ids: Sequence[str]) -> int:
    revoked = 0
    for delayed in _kept_by_brokers(app):
        for job_id in job_ids:
            try:
                revoked += delayed.change(job_id, marked_as_revoked)
            except InvalidMessageError:
                logger.exception("The delayed job %s cannot be revoked", job_id)
    return revoked


def _kept_by_brokers(app: Celery) -> Iterator[Any]:
    """The delayed messages of each broker that keeps them: the app's own, and those of ``laravel_connections``."""
    seen = set()
    for url in (None, *settings_of(app).connections.values()):
        connection = _keeper_of_delays(app, url)
        if connection is not None and (name := connection.as_uri(include_password=True)) not in seen:
            seen.add(name)
            with connection:
                connection.connect()
                yield connection.transport.delayed


def _keeper_of_delays(app: Celery, url: str | None) -> Any:
    """A connection to a broker, unconnected; None where delays do not wait in it."""
    try:
        connection = app.connection_for_write(url)
        return connection if getattr(connection.get_transport_cls(), "keeps_delays", False) else None
    except (ImportError, KeyError):
        return None  # its package is missing here: another process has it


def _revoke_in_store(app: Celery, job_ids: Sequence[str]) -> int:
    delays = store_of(app).delays
    revoked = 0
    for job_id in job_ids:
        for record in delays.find(job_id):
            try:
                message = record.message if record.is_revoked else marked_as_revoked(record.message)
            except InvalidMessageError:
                logger.exception("The delayed job %s (%s) cannot be revoked", job_id, record.task)
                continue
            revoked += delays.revoke(record.entry, message)
    return revoked


def remember_revocations(app: Celery) -> None:
    """Have ``app.control.revoke`` mark jobs where they wait to be due, so that no worker need remember them."""
    app.control_cls = partial(_make_control, app.control_cls)
    if "control" in app.__dict__:  # a cached property
        _give_memory(app.control)


def job_ids_of(task_id: Any) -> list[str]:
    """The ids that a call of ``revoke`` is for: it takes one or many."""
    ids = task_id if isinstance(task_id, (list, tuple, set, frozenset)) else [task_id]
    return [str(one) for one in ids if one]


def _make_control(cls: Any, app: Celery) -> Any:
    control = instantiate(cls, app=app)
    _give_memory(control)
    return control


def _give_memory(control: Any) -> None:
    revoke, app = control.revoke, control.app

    @wraps(revoke)
    def revoke_and_remember(task_id: Any, *args: Any, **kwargs: Any) -> Any:
        answer = revoke(task_id, *args, **kwargs)
        try:
            revoke_waiting(app, job_ids_of(task_id))
        except (CeleryLaravelError, OperationalError) as error:
            logger.warning(
                "The workers have been told to revoke %s; where it may wait until it is due, it is not marked: %s",
                task_id,
                error,
            )
        return answer

    control.revoke = revoke_and_remember


def _due_at(job: DelayedJob) -> datetime:
    return job.due_at


def _stored_job(record: DelayRecord) -> DelayedJob:
    return DelayedJob(
        id=record.job_id,
        task=record.task,
        queue=record.queue,
        parked_at=record.parked_at,
        due_at=record.due_at,
        revoked=record.is_revoked,
        **_as_dispatched(headers_of(record.message)),
    )


def _kept_job(message: Any) -> DelayedJob:
    """A job of a message that a broker keeps."""
    headers = headers_of(message.payload)
    return DelayedJob(
        id=str(headers.get("id")),
        task=str(headers.get("task")),
        queue=message.queue,
        parked_at=None,
        due_at=clock.as_datetime(message.due),
        revoked=is_marked_as_revoked(headers),
        **_as_dispatched(headers),
    )


def _as_dispatched(headers: Mapping[str, Any]) -> dict[str, Any]:
    header = headers.get(NAME)
    return {
        "args_repr": str(headers.get("argsrepr") or "()"),
        "kwargs_repr": str(headers.get("kwargsrepr") or "{}"),
        "batch_id": header.get("batch_id") if isinstance(header, dict) else None,
    }
