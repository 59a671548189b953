"""Batches that do not go on, and callbacks that nobody sends."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.operations.doctor.delays import delayed_of
from celery_laravel.operations.doctor.findings import Finding, Level
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_laravel.operations.doctor.examination import Examination
    from celery_laravel.stores.records import BatchRecord

_PAGE, _MOST = 200, 2000
"""Batches that are looked through, the newest first."""
_EXPLAINED = 20
"""Unfinished batches that are explained; the others are counted."""
_NAMED = 5
"""Callbacks of a batch that are named."""
_OVERDUE = timedelta(seconds=30)
"""Workers send what has been due for 10 s, and look every 5 s."""


def check_callbacks(found: Examination) -> None:
    """Find callbacks that are due and have not been sent."""
    owed: dict[str, tuple[BatchRecord, list[str]]] = {}
    for batch, callback in store_of(found.app).batches.due(older_than=_OVERDUE):
        if found.batch is None or batch.id == found.batch.id:
            owed.setdefault(batch.id, (batch, []))[1].append(
                ":".join(str(part) for part in callback.mark if part is not None)
            )
    why = _why_not_sent(found)
    for batch, names in owed.values():
        told = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
        problem = f"Batch {_name(batch)}: its callbacks {told} are due and have not been sent. {why}"
        advice = "Start a worker of this app: `celery -A app worker`. It sends them within a quarter of a minute."
        since = batch.finished_at or batch.cancelled_at
        found.findings.append(Finding("callbacks-due", problem, advice, since=since, batch_id=batch.id))


def _why_not_sent(found: Examination) -> str:
    if not found.broker_answers:
        return "The broker cannot be reached."
    senders = [worker.name for worker in found.installed if "DueCallbacks" in worker.steps]
    if not senders:
        return "No worker answers that would send them."
    return f"The workers {', '.join(senders)} are to send them, and have not: their logs say why."


def check_batches(found: Examination) -> None:
    """Find batches that are stuck, and say why."""
    if found.batch is not None:
        # As it is by now: what has ended since then is with no worker any more.
        found.findings += _explained(found, store_of(found.app).batches.find(found.batch.id) or found.batch)
        return
    latest = clock.as_datetime(clock.now()) - found.patience
    old = [batch for batch in _unfinished(found) if batch.created_at <= latest]
    for batch in old[:_EXPLAINED]:
        found.findings += _explained(found, batch)
    if len(old) > _EXPLAINED:
        problem = f"{len(old) - _EXPLAINED:,} more batches have not finished, which are older than the last one above."
        advice = "Look at one of them: `celery -A app laravel doctor --batch ID`."
        found.findings.append(Finding("more-batches", problem, advice, Level.NOTE))


def _unfinished(found: Examination) -> Iterator[BatchRecord]:
    before, seen = None, 0
    while seen < _MOST and (page := store_of(found.app).batches.all(limit=_PAGE, before=before)):
        yield from (batch for batch in page if batch.finished_at is None)
        before, seen = page[-1].id, seen + len(page)


def _explained(found: Examination, batch: BatchRecord) -> list[Finding]:
    if batch.finished_at is not None:
        problem = f"Batch {_name(batch)} has finished; {_failures(batch)}."
        advice = f"Nothing. `celery -A app laravel batch {batch.id}` shows it."
        return [_note("finished", batch, problem, advice)]
    here = {worker.name: worker.batches[batch.id] for worker in found.installed if worker.batches.get(batch.id)}
    if here:
        where = ", ".join(f"{min(count, batch.pending_jobs):,} at {name}" for name, count in here.items())
        problem = f"Batch {_name(batch)} goes on: of its {batch.pending_jobs:,} outstanding jobs there are {where}."
        return [_note("goes-on", batch, problem, f"Wait: `celery -A app laravel batch {batch.id} --watch` follows it.")]
    if batch.is_open:
        return [_never_closed(batch)]
    return [_not_delivered(found, batch)]


def _never_closed(batch: BatchRecord) -> Finding:
    ended = batch.total_jobs - batch.pending_jobs
    problem = (
        f"Batch {_name(batch)} was never closed: its dispatch has not ended. {batch.total_jobs:,} jobs were added so "
        f"far, and {ended:,} of them have ended. Whoever dispatched it has died, or still sends."
    )
    advice = (
        f"If the program that dispatched it is gone, the batch cannot finish: `celery -A app laravel close-batch "
        f"{batch.id}` says that all was sent, or with --incomplete that it was not; then dispatch the rest in a new "
        "batch. " + _removal(batch)
    )
    return Finding("never-closed", problem, advice, since=batch.created_at, batch_id=batch.id)


def _not_delivered(found: Examination, batch: BatchRecord) -> Finding:
    outstanding = f"Batch {_name(batch)}: {batch.pending_jobs:,} of {batch.total_jobs:,} jobs are outstanding"
    delayed, due = delayed_of(found, batch.id)
    if due is not None:
        problem = f"{outstanding}; {delayed:,} of them are delayed, the first until {due.isoformat(' ', 'seconds')}."
        return _note("delayed", batch, problem, "Wait: `celery -A app laravel delayed` lists them.")
    waiting = {queue: count for queue, count in found.messages.waiting.items() if count}
    if waiting:
        where = ", ".join(f"{count:,} in {queue!r}" for queue, count in waiting.items())
        if not found.workers:
            problem = f"{outstanding}, and no worker answers. Messages wait: {where}."
            advice = "Start a worker of this app: `celery -A app worker`."
            return Finding("no-worker-for-batch", problem, advice, since=batch.created_at, batch_id=batch.id)
        problem = f"{outstanding}; no worker has one of them, and messages wait: {where}. They may be among these."
        return _note("waiting", batch, problem, "Wait, or start more workers for these queues.")
    held = sum(found.messages.held.values()) - sum(worker.held for worker in found.workers)
    if held > 0:
        problem = f"{outstanding}; no worker has one of them, and the broker keeps {held:,} messages back."
        advice = "Wait: they are delayed, or a dead worker held them, and the visibility timeout brings them again."
        return _note("held", batch, problem, advice)
    return _lost(found, batch, outstanding)


def _lost(found: Examination, batch: BatchRecord, outstanding: str) -> Finding:
    problem = f"{outstanding}, but no message waits in a queue and no worker has one of them: they are not delivered."
    strangers = [worker.name for worker in found.workers if not worker.is_installed]
    if strangers:
        problem += (
            f" Workers without celery-laravel ({', '.join(strangers)}) may have run them uncounted, or dropped them."
        )
    advice = (
        "Find out where the messages went: a queue that was purged, a broker that lost its data, a worker of another "
        "app. What is lost does not come back: dispatch it again in a new batch. " + _removal(batch)
    )
    return Finding("not-delivered", problem, advice, since=batch.created_at, batch_id=batch.id)


def _removal(batch: BatchRecord) -> str:
    return (
        f"`celery -A app laravel cancel-batch {batch.id}` makes its remaining jobs skip, and "
        "`celery -A app laravel prune-batches --unfinished HOURS` removes such batches."
    )


def _note(check: str, batch: BatchRecord, problem: str, advice: str) -> Finding:
    return Finding(check, problem, advice, Level.NOTE, since=batch.created_at, batch_id=batch.id)


def _failures(batch: BatchRecord) -> str:
    return f"{batch.failed_jobs:,} of {batch.total_jobs:,} jobs failed"


def _name(batch: BatchRecord) -> str:
    return f"{batch.name!r} ({batch.id})" if batch.name else batch.id
