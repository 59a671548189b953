"""One examination: the facts are gathered once, then each check looks at them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel.operations.doctor.batches import check_batches, check_callbacks
from celery_laravel.operations.doctor.broker import check_broker, check_queues, check_timeouts
from celery_laravel.operations.doctor.delays import check_delays
from celery_laravel.operations.doctor.findings import Finding, Level
from celery_laravel.operations.doctor.installation import check_workers
from celery_laravel.operations.doctor.leases import check_leases
from celery_laravel.operations.doctor.messages import Messages, count_messages, queues_of
from celery_laravel.operations.doctor.store import check_failed_store, check_store
from celery_laravel.operations.doctor.unique_locks import check_unique_locks
from celery_laravel.operations.doctor.workers import WorkerReport, ask_workers
from celery_laravel.settings import settings_of, without_password

if TYPE_CHECKING:
    from celery import Celery

    from celery_laravel.stores.records import BatchRecord

PATIENCE = timedelta(minutes=10)
"""A batch that is older and has not finished is looked into."""


@dataclass
class Examination:
    """What was looked at, and what was found."""

    app: Celery
    patience: timedelta = PATIENCE
    batch: BatchRecord | None = None
    """The one batch that is asked about, if it is one."""
    broker_answers: bool = True
    workers: list[WorkerReport] = field(default_factory=list)
    messages: Messages = field(default_factory=Messages)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool:
        """Whether nothing has to be mended."""
        return not any(finding.level is Level.PROBLEM for finding in self.findings)

    @property
    def installed(self) -> list[WorkerReport]:
        """The workers that have this library."""
        return [worker for worker in self.workers if worker.is_installed]

    @property
    def store(self) -> str:
        """The store's URL, without its password."""
        return without_password(settings_of(self.app).store)


def examine(
    app: Celery, *, batch: BatchRecord | None = None, patience: timedelta = PATIENCE, timeout: float = 2.0
) -> Examination:
    """Look for what is wrong; with ``batch``, say what is to be said about that one, however young it is.

    Workers have ``timeout`` seconds to answer. What cannot be reached is a
    finding, and so never an exception.
    """
    found = Examination(app, timedelta() if batch is not None else patience, batch)
    with_store = check_store(found)
    check_failed_store(found)
    found.broker_answers = check_broker(found)
    if found.broker_answers:
        queues = queues_of(app)
        messages = count_messages(app, queues)  # before the workers are asked: what is taken meanwhile is with them
        found.workers = ask_workers(app, queues, timeout)
        others = {queue for worker in found.workers for queue in worker.queues} - queues
        found.messages = messages.with_those_of(count_messages(app, others)) if others else messages
        check_workers(found)
        check_queues(found)
        check_timeouts(found)
    if with_store:
        check_callbacks(found)
        check_delays(found)
    if with_store and found.broker_answers:  # without it nobody knows where messages are, and what workers do
        check_leases(found)
        check_unique_locks(found)
        check_batches(found)
    found.findings.sort(key=lambda finding: finding.level is Level.NOTE)
    return found
