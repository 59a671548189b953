"""The job that stands for a batch within a canvas: it dispatches the batch, waits for it, and ends as it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery.exceptions import Retry

from celery_laravel import events
from celery_laravel.attempt.outcome import Released
from celery_laravel.attempt.running_job import RunningJob, running_of
from celery_laravel.dispatch.batch import Batch
from celery_laravel.dispatch.callbacks import as_data
from celery_laravel.dispatch.chained_batch import TASK, ChainedBatch, turn_of_wake
from celery_laravel.errors import BatchCancelledError, BatchNotFoundError
from celery_laravel.message.canvas import change_headers, members_of
from celery_laravel.message.exceptions import exception_from_data
from celery_laravel.message.header import next_round
from celery_laravel.message.resend import delivery_options, resend
from celery_laravel.runtime import runtime_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

    from celery_laravel.stores.records import BatchRecord

_WAKES = ("catch", "next")
"""The callbacks that wake the job, in the order in which both may come: its batch has failed, and is mended later."""


def add_batch_task(app: Celery, base: type) -> None:
    """Give an app the job, of class ``base``, that stands for a batch; once is enough."""
    if TASK not in app.tasks:
        app.task(name=TASK, base=base, bind=True, typing=False, shared=False, tries=3, backoff=(1, 5), failed=_failed)(
            _run
        )


def _run(job: Any, *, batch: Mapping[str, Any] | None = None, woken: tuple[str, str] | None = None) -> Any:
    """Dispatch the batch and wait for it; or, woken by it, end as it did."""
    if woken is not None:
        return _end(job, *woken)
    assert batch is not None, "a message of this job says either"
    runtime, running = runtime_of(job.app), running_of(job)
    chained = ChainedBatch(job.app, runtime.store, batch)
    is_eager = job.request.is_eager
    wakes = {} if is_eager else {kind: _wake(job, running, batch["id"], kind) for kind in _kinds(batch)}
    record = chained.start(wakes, runtime.callbacks.after)
    if not is_eager:
        # Before the batch can finish and wake this job, which otherwise would be taken for running still.
        runtime.settlement.released(running, Released(0.0, counts=False))
    change = chained.close(lambda: delivery_options(job.request))
    if change is not None:
        record = change.batch
    events.send(events.batch_dispatched, job.app, batch=Batch(record, job.app))
    runtime.callbacks.after(change)
    if is_eager:
        is_broken = record.first_exception is not None and not record.allows_failures
        return _end(job, record.id, "catch" if is_broken else "next")
    raise Retry("waits for its batch")  # without a message: the batch has that


def _failed(job: Any, error: BaseException, *, batch: Mapping[str, Any] | None = None, **_: Any) -> None:
    """Cancel a batch that could not be dispatched, unless it is another job's."""
    if batch is not None and not isinstance(error, RuntimeError):
        chained = ChainedBatch(job.app, runtime_of(job.app).store, batch)
        chained.cancel(lambda: delivery_options(job.request))


def _kinds(batch: Mapping[str, Any]) -> tuple[str, ...]:
    return _WAKES[1:] if batch["allows_failures"] else _WAKES


def _wake(job: Any, running: RunningJob, batch_id: str, kind: str) -> Mapping[str, Any]:
    """The job's own message once more, to be sent when the batch says so."""
    turn = turn_of_wake(1 + _WAKES.index(kind))
    header = replace(running.header, turn=turn, attempts=0, exceptions=0, deadline=None, waits=0, slots={})
    signature = resend(job, job.request, header, args=(), kwargs={"woken": (batch_id, kind)}, kwargsrepr=repr(kind))
    signature.options.pop("expires", None)  # the job has started in time
    signature.immutable = True
    return as_data("Bus.batch", signature, carried="are kept with the batch")


def _end(job: Any, batch_id: str, kind: str) -> Any:
    """End the job as its batch has ended: with the batch as its result, or failed by what failed the batch.

    Nothing is left to be retried but the batch's own failed jobs, which have
    records of their own. Once they have all succeeded the job wakes again, and
    what follows it goes on.
    """
    running = running_of(job)
    running.is_managed = False
    record = runtime_of(job.app).store.batches.find(batch_id)
    if record is None:
        return job.fail(BatchNotFoundError(batch_id))
    is_broken = record.first_exception is not None and not record.allows_failures
    if kind == "catch":
        return job.fail(exception_from_data(record.first_exception or {}))
    if is_broken:
        _resume(job, running)
    elif record.cancelled_at is not None:
        return job.fail(BatchCancelledError(batch_id))
    return _result(job, record)


def _resume(job: Any, running: RunningJob) -> None:
    """Let the job's chain go on after all: another failure is caught again, and a batch around it counts it anew."""
    request, header = job.request, running.header
    if header.batch_id is not None and header.index is not None:
        rest = members_of(request.chain, header.batch_id) + members_of(request.chord, header.batch_id)
        runtime_of(job.app).store.batches.revive(header.batch_id, header.index, job_id=running.id, skips=rest)
    if header.chain is not None:
        for rest in (request.chain, request.chord):
            change_headers(rest, lambda following: replace(following, chain=next_round(following.chain)))


def _result(job: Any, record: BatchRecord) -> Batch:
    return Batch(replace(record, callbacks={}), job.app)
