"""The task whose messages are packs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_laravel.attempt.running_job import running_of
from celery_laravel.errors import InvalidMessageError
from celery_laravel.message.header import read_header
from celery_laravel.message.packs import CARRIER, Pack, Packed, read_pack
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.records import AttemptEnd
from celery_laravel.worker.starting import KEEP_OPEN

if TYPE_CHECKING:
    from celery import Celery

_BACKOFF = (5, 15, 60)
"""Seconds before a pack comes again that could not be run to its end, as the store or the broker failed."""


def add_pack_task(app: Celery, base: type) -> None:
    """Give an app the job, made of class ``base``, that carries packs; once is enough.

    Its starts are counted like those of any job, so that a pack which is
    delivered while it runs waits, one that has ended is dropped, and one whose
    process died is known to be.
    """
    if CARRIER in app.tasks:
        return
    task: Any = app.task(
        name=CARRIER,
        base=_carrier_class(base),
        bind=True,
        typing=False,
        shared=False,
        tries=0,
        backoff=_BACKOFF,
        ignore_result=True,
        send_events=False,
        track_started=False,
        Strategy="celery_laravel.worker.pack_request:pack_strategy",
        Request="celery_laravel.worker.pack_request:PackRequest",
    )(_run)
    task.time_limit = task.soft_time_limit = task.rate_limit = None  # those of the app are meant for one job


def _carrier_class(base: Any) -> type:
    class Carrier(base):
        """A `Job` that can tell its request in the worker's parent what that has to know."""

        abstract = True

        def outstanding_in(self, pack: Pack) -> list[Packed]:
            """The members of a pack that have not ended."""
            indices = [member.index for member in pack.members]
            ended = self._runtime.store.batches.ended(pack.batch_id, indices)
            return [member for member in pack.members if member.index not in ended]

        def forgive_crash(self, request: Any) -> None:
            """Write down that a pack goes on, though its process has died: it was killed, and it is known for what."""
            header = read_header(request.headers)
            end = AttemptEnd(request.id, header.turn, False, header.attempts, header.exceptions)
            self._runtime.store.attempts.end(end, keep=KEEP_OPEN)

    return Carrier


def _run(job: Any, **content: Any) -> None:
    running = running_of(job)
    try:
        pack = read_pack(**content, carrier=vars(job.request_stack.top))
    except (InvalidMessageError, TypeError) as error:
        job.fail(InvalidMessageError(f"The message of a pack cannot be read: {error}"))
        return
    starts = running.counts.attempt - running.header.attempts
    is_redelivered = bool((job.request.delivery_info or {}).get("redelivered"))
    runtime_of(job.app).packs.run(
        pack,
        job.request_stack.top,
        is_first=running.header.turn == 0 and not is_redelivered,
        has_crashed=starts > 1,
    )
