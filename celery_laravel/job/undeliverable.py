"""What becomes of a job whose message a worker cannot take: its task is unknown here, or its body cannot be read.

Celery drops such a message. Whoever waits for the job (a batch, a chain's
``catch``, the next job of its unique key) would wait for ever; the library's header, which can be
read whatever the body is, says who that is.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from celery.states import FAILURE

from celery_laravel import clock, events
from celery_laravel.attempt import unique
from celery_laravel.errors import InvalidMessageError, StoreUnavailableError
from celery_laravel.job.own_tasks import announce_batch
from celery_laravel.message.exceptions import describe, exception_to_data
from celery_laravel.message.header import has_header, read_header
from celery_laravel.message.payload import pack_payload
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import AttemptEnd, FailedJob, MemberEnd, MemberState
from celery_laravel.worker import batch
from celery_laravel.worker.debts import Debt
from celery_laravel.worker.failed_jobs import DEFAULT_CONNECTION, queue_of
from celery_laravel.worker.starting import find_other_start

if TYPE_CHECKING:
    from celery import Celery

    from celery_laravel.message.header import Header

logger = logging.getLogger(__name__)


def settle_undeliverable(app: Celery, message: Any, error: Exception) -> None:
    """Settle the job of a message that a worker drops with ``error``, as one that has failed; twice is once.

    A message without the library's header is Celery's alone. So is a copy of a
    job that has ended, in another worker, which knew its task. Called before the
    message is acknowledged, in the worker's parent, of which nothing here
    keeps the other jobs: what fails is logged.
    """
    headers = message.headers
    if not has_header(headers) or not isinstance(headers.get("id"), str):
        return
    job_id, name = headers["id"], str(headers.get("task") or "unknown")
    try:
        header = read_header(headers)
    except InvalidMessageError as damaged:
        logger.warning("Job %s (%s) is dropped, and nobody is told: %s", job_id, name, damaged)
        return
    try:
        if _may_settle(app, header, job_id, name):
            _settle(app, message, header, job_id, name, error)
    except Exception:
        logger.exception("Job %s (%s) is dropped (%r) and could not be settled", job_id, name, error)


def _may_settle(app: Celery, header: Header, job_id: str, name: str) -> bool:
    """Whether this is no copy of a job that has ended.

    One that another worker runs is settled: that worker may be dead, and this
    message the last that there is of the job.
    """
    try:
        copy = find_other_start(store_of(app), job_id, header)
    except StoreUnavailableError as away:
        logger.warning("Of job %s (%s) it is not known whether it has ended: %s", job_id, name, away)
        return True
    if copy is None or copy.release is not None:
        return True
    logger.info("Job %s (%s) is dropped: a copy of one that has ended", job_id, name)
    return False


def _settle(  # noqa: PLR0917  the parts of one message
    app: Celery, message: Any, header: Header, job_id: str, name: str, error: Exception
) -> None:
    request = _request(message)
    key = header.unique
    debt = Debt(
        job_id,
        name,
        unlock=() if key is None else (key, unique.running_key(key), unique.arguments_key(job_id)),
        member=_member(header, request, job_id, error),
        chain=header.chain,
        error=exception_to_data(error),
        record=_record(app, message, header, job_id, name, error),
    )
    debts = runtime_of(app).debts
    with events.withheld() as withheld:
        debts.pay_surely(debt, request, patience=0.0, gives_up=True)
    if withheld and header.batch_id is not None:
        announce_batch(app, request, header.batch_id)
    if not request.ignore_result:
        app.backend.store_result(job_id, error, FAILURE, request=request)
    # After all else: a worker that dies before has the message come again, to be settled once more.
    end = AttemptEnd(job_id, header.turn, True, header.attempts + 1, header.exceptions)
    debts.pay_surely(Debt(job_id, name, attempt=end), request, patience=0.0, gives_up=True)
    logger.error("Job %s (%s) has failed: its message cannot be taken: %r", job_id, name, error)


def _member(header: Header, request: Any, job_id: str, error: Exception) -> MemberEnd | None:
    """The end of a batch's member, with the members that will never run."""
    if header.batch_id is None or header.index is None:
        return None
    rest = batch.rest_of(request, header.batch_id) or tuple(
        index for first, end in header.rest for index in range(first, end)
    )
    return MemberEnd(header.batch_id, header.index, job_id, MemberState.FAILED, rest, exception_to_data(error))


def _request(message: Any) -> Any:
    """The message as a request: without arguments, and what follows the job, where its body cannot be read."""
    request = {**message.headers, "delivery_info": message.delivery_info or {}}
    try:
        args, kwargs, embed = message.payload
        request.update(args=args, kwargs=kwargs, **embed)
    except Exception as error:
        logger.debug("The body of a message cannot be read: %r", error)  # which is told with what became of its job
    return Context(request)


def _record(app: Celery, message: Any, header: Header, job_id: str, name: str, error: Exception) -> FailedJob:  # noqa: PLR0917
    """The record of a job that was never begun: its message as it came, for workers that can read it."""
    headers = message.headers
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    return FailedJob(
        id=job_id,
        connection=DEFAULT_CONNECTION,
        queue=queue_of(_request(message)) or app.conf.task_default_queue,
        task=name,
        args_repr=str(headers.get("argsrepr") or ""),
        kwargs_repr=str(headers.get("kwargsrepr") or ""),
        exception=describe(error),
        traceback="",
        failed_at=clock.as_datetime(clock.now()),
        attempts=header.attempts,
        batch_id=header.batch_id,
        payload={
            **pack_payload(message.content_type, message.content_encoding, body),
            "headers": json.loads(json.dumps(headers, default=str)),
            "delivery_info": json.loads(json.dumps(message.delivery_info or {}, default=str)),
        },
    )
