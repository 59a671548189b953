"""Delayed jobs: which wait, and calling one off."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from celery.utils.imports import instantiate
from kombu.exceptions import OperationalError

from celery_laravel.errors import CeleryLaravelError, InvalidMessageError
from celery_laravel.message.header import NAME
from celery_laravel.message.parked import headers_of, marked_as_revoked
from celery_laravel.settings import settings_of
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from celery import Celery

    from celery_laravel.stores.records import DelayRecord

logger = logging.getLogger("celery_laravel.delays")


@dataclass(frozen=True)
class DelayedJob:
    """A job that waits in the store. ``revoked`` says that it has been called off, and is about to be settled."""

    id: str
    task: str
    queue: str
    args_repr: str
    kwargs_repr: str
    batch_id: str | None
    parked_at: datetime
    due_at: datetime
    revoked: bool


class DelayedJobs:
    """The jobs of an app that wait in its store until they are due.

    What waits elsewhere is not among them: a delay shorter than
    ``laravel_durable_delay`` waits in a worker, and the database broker keeps
    delays in its own table; `cancel` reaches those too.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._store = store_of(app).delays

    def all(self, limit: int | None = None, queue: str | None = None) -> list[DelayedJob]:
        """The jobs that wait, the first due first."""
        return [_job(record) for record in self._store.all(queue=queue, limit=limit)]

    def count(self, queue: str | None = None) -> int:
        """How many jobs wait."""
        return self._store.count(queue=queue)

    def find(self, job_id: str) -> DelayedJob | None:
        """One job, or None; one that waits more than once, as it is due first."""
        records = self._store.find(job_id)
        return _job(records[0]) if records else None

    def cancel(self, job_id: str) -> bool:
        """Call a job off, for good; False when it does not wait.

        It leaves where it waits at once and is settled as any revoked job by the
        next worker: its state is ``REVOKED``, its batch has counted it, its
        chain has failed, its unique lock is free.
        """
        return revoke_waiting(self._app, [job_id]) > 0


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
    """Mark what waits in the app's brokers: its own, and those of ``laravel_connections``."""
    revoked = 0
    for url in (None, *settings_of(app).connections.values()):
        connection = _keeper_of_delays(app, url)
        if connection is None:
            continue
        with connection:
            connection.connect()
            for job_id in job_ids:
                try:
                    revoked += connection.transport.change_waiting(job_id, marked_as_revoked)
                except InvalidMessageError:
                    logger.exception("The delayed job %s cannot be revoked", job_id)
    return revoked


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


def _job(record: DelayRecord) -> DelayedJob:
    headers = headers_of(record.message)
    header = headers.get(NAME)
    return DelayedJob(
        id=record.job_id,
        task=record.task,
        queue=record.queue,
        args_repr=str(headers.get("argsrepr") or "()"),
        kwargs_repr=str(headers.get("kwargsrepr") or "{}"),
        batch_id=header.get("batch_id") if isinstance(header, dict) else None,
        parked_at=record.parked_at,
        due_at=record.due_at,
        revoked=record.is_revoked,
    )
