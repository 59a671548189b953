"""The tasks that the library gives to an app, for what is not to be done where it is found out."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack
from celery.app.task import Context
from kombu.exceptions import OperationalError

from celery_laravel import events
from celery_laravel.attempt.running_job import RUNNING
from celery_laravel.dispatch.batch import Batch
from celery_laravel.dispatch.failed_jobs import signature_of
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.message.callbacks import send_callback
from celery_laravel.message.debts import SETTLE
from celery_laravel.message.exceptions import exception_from_data, exception_to_data
from celery_laravel.message.resend import delivery_options
from celery_laravel.runtime import runtime_of
from celery_laravel.worker.conclusion import put_back_unstarted, unstarted
from celery_laravel.worker.debts import Debt
from celery_laravel.worker.failed_jobs import payload_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.worker.endings import Ending

logger = logging.getLogger(__name__)

ANNOUNCE = "celery_laravel.announce"
"""The task that runs, in a child, what the users' code has to hear of a job that the worker's parent settled."""


def add_own_tasks(app: Celery, base: type) -> None:
    """Give an app the library's own tasks, which are jobs of class ``base``; a second time changes nothing."""
    if SETTLE in app._tasks:  # noqa: SLF001  without finalizing
        return
    options = {"acks_late": True, "reject_on_worker_lost": True, "ignore_result": True, "typing": False}
    for name, run in ((SETTLE, _settle), (ANNOUNCE, _announce)):
        app.task(name=name, base=base, bind=True, lazy=False, shared=False, **options)(run)


def announce(
    task: Any,
    request: Any,
    running: RunningJob,
    error: BaseException | None,
    withheld: events.Withheld,
    *,
    told: Ending | None = None,
) -> None:
    """Have a child call the ``failed`` hook of a job that the worker's parent has settled, and its signals' receivers.

    It is sent under an id made from the job's, under which it is done once.
    Nothing is sent where there is nothing to call; a hook that the job's own
    process has ``told`` to have called is not called again.

    Raises:
        Exception: Whatever keeps the message from being published.
    """
    calls_hook = error is not None and running.options.failed is not None and told is None
    if not (calls_hook or withheld):
        return
    content = {
        "task": task.name,
        "payload": payload_of(task, request, running.header),
        "error": None if error is None else exception_to_data(error),
        "hook": calls_hook,
        "signals": [signal.name for signal, _, _ in withheld],
        "batch_id": running.header.batch_id,
    }
    _tell(task.app, request, f"{running.id}:settled:{running.header.turn}", content)


def announce_batch(app: Celery, request: Any, batch_id: str) -> None:
    """Have a child send ``batch_finished`` for a batch whose last member was settled in the worker's parent.

    Raises:
        Exception: Whatever keeps the message from being published.
    """
    told = {"task": None, "signals": [events.batch_finished.name], "batch_id": batch_id}
    _tell(app, request, f"{batch_id}:finished:{request.id}", told)


def _tell(app: Celery, request: Any, name: str, told: dict[str, Any]) -> None:
    data = app.tasks[ANNOUNCE].signature(options=delivery_options(request))
    send_callback(app, data, name, told)


def _settle(job: Any, debt: dict[str, Any]) -> None:
    """Pay a debt of a job that has ended; while the store is still away, wait for it in the queue."""
    try:
        runtime_of(job.app).debts.pay(Debt.decode(debt))
    except (StoreUnavailableError, OperationalError) as error:
        raise put_back_unstarted(job, job.request, error) from error


def _announce(job: Any, told: dict[str, Any]) -> None:
    """Call a job's ``failed`` hook, and the receivers of its signals, as if in its own process."""
    if events.batch_finished.name in told["signals"]:
        _send_batch_finished(job.app, told["batch_id"])
    task = job.app.tasks.get(told["task"])
    if task is None:
        if told["task"] is not None:
            logger.error("Nobody is told of a job's end, as this worker does not have its task %s", told["task"])
        return
    error = None if told["error"] is None else exception_from_data(told["error"])
    with _in_place_of(task, told["payload"]) as running:
        request, hook = task.request_stack.top, running.options.failed
        if told["hook"] and hook is not None:
            try:
                hook(task, error, *request.args, **request.kwargs)
            except Exception:
                logger.exception("Job %s: its failed() hook failed; its outcome stands", running.id)
        details = {"task_id": running.id, "args": request.args, "kwargs": request.kwargs}
        if events.job_processed.name in told["signals"]:
            events.send(events.job_processed, task, **details)
        if events.job_failed.name in told["signals"]:
            events.send(events.job_failed, task, **details, exception=error)


@contextmanager
def _in_place_of(task: Any, payload: dict[str, Any]) -> Iterator[RunningJob]:
    """Let a task see the request of a job that is over, as that was when its process was lost."""
    signature = signature_of(task.app, payload)
    options = signature.options
    request = Context(
        id=options["task_id"],
        task=task.name,
        args=tuple(signature.args),
        kwargs=dict(signature.kwargs),
        headers=options.get("headers"),
        retries=options.get("retries", 0),
        called_directly=False,
        is_eager=False,
        delivery_info={"exchange": options.get("exchange"), "routing_key": options.get("queue")},
    )
    running = unstarted(task, request)
    request.__dict__[RUNNING] = running
    _task_stack.push(task)
    task.request_stack.push(request)
    try:
        yield running
    finally:
        task.pop_request()
        _task_stack.pop()


def _send_batch_finished(app: Celery, batch_id: str) -> None:
    record = runtime_of(app).store.batches.find(batch_id)
    if record is not None:
        events.send(events.batch_finished, app, batch=Batch(record, app))
