"""``delayed`` and ``cancel-delayed``."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from celery_laravel.cli.exits import CommandError
from celery_laravel.cli.options import json_option, limit_option
from celery_laravel.cli.session import Session, session_of
from celery_laravel.cli.text import count, did_you_mean, span

if TYPE_CHECKING:
    from celery_laravel.operations.delayed import DelayedJob, DelayedJobs

_SEARCHED = 1000
"""How many jobs are looked through for ids that resemble one that does not wait."""
_COLUMNS = ("Id", "Task", "Queue", "Due in", "Arguments")


@click.command()
@click.option("--queue", metavar="NAME", help="Only those of one queue.")
@limit_option("first due")
@json_option
@click.pass_context
def delayed(ctx: click.Context, queue: str | None, limit: int, as_json: bool) -> None:
    """List the jobs that wait until they are due, in the store or in a database broker, the first due first.

    On other brokers, delays shorter than laravel_durable_delay wait in a
    worker, and are not listed.
    """
    session = session_of(ctx)
    found = _delayed(session).all(limit=limit + 1 if limit else None, queue=queue)
    shown = found[:limit] if limit else found
    if as_json:
        session.output.json([as_data(job) for job in shown])
    elif shown:
        now = datetime.now(timezone.utc)
        session.output.table(_COLUMNS, [_row(job, now) for job in shown])
    else:
        session.output.say(f"No delayed jobs wait{'' if queue is None else f' for the queue {queue!r}'}.")
    if len(found) > len(shown):
        total = _delayed(session).count(queue)
        session.output.note(f"{len(shown)} of {count(total, 'delayed job')} shown; --limit 0 shows all.")


@click.command("cancel-delayed")
@click.argument("job_id", metavar="ID")
@click.pass_context
def cancel_delayed(ctx: click.Context, job_id: str) -> None:
    """Call off a delayed job, for good: it never runs.

    The next worker settles it as any revoked job: its batch counts it, its
    chain fails, its unique lock is freed.
    """
    session = session_of(ctx)
    waiting = _delayed(session)
    job = waiting.find(job_id)
    if not waiting.cancel(job_id):
        known = [known.id for known in waiting.all(limit=_SEARCHED)]
        raise CommandError(f"No delayed job {job_id!r} waits.{did_you_mean(job_id, known)}")
    session.output.say(f"The job {job_id!r}{f' ({job.task})' if job else ''} will not run.")


def as_data(job: DelayedJob) -> dict[str, Any]:
    """A delayed job as values that JSON can carry; the keys are its attributes, and stay."""
    data = {field.name: getattr(job, field.name) for field in fields(job)}
    parked_at = None if job.parked_at is None else job.parked_at.isoformat()
    return {**data, "parked_at": parked_at, "due_at": job.due_at.isoformat()}


def _row(job: DelayedJob, now: datetime) -> tuple[str, ...]:
    left = "revoked" if job.revoked else span(max(0.0, (job.due_at - now).total_seconds()))
    kwargs = "" if job.kwargs_repr == "{}" else f" {job.kwargs_repr}"
    return job.id, job.task, job.queue, left, f"{job.args_repr}{kwargs}"


def _delayed(session: Session) -> DelayedJobs:
    found: DelayedJobs = session.bus.delayed
    return found
