"""``failed``, ``retry``, ``forget``, ``flush`` and ``prune-failed``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from kombu.exceptions import OperationalError

from celery_laravel.cli.exits import CommandError, Exit, broker_unavailable
from celery_laravel.cli.options import json_option, limit_option
from celery_laravel.cli.session import Session, session_of
from celery_laravel.cli.text import count, did_you_mean, instant
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.settings import settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from celery_laravel.stores.records import FailedJob

_SEARCHED = 1000
"""How many records are looked through for ids that resemble one that is not known."""

queue_option = click.option("--queue", metavar="NAME", help="Only jobs that failed on this queue.")


@click.command()
@click.argument("job_id", metavar="[ID]", required=False)
@queue_option
@limit_option("newest")
@json_option
@click.pass_context
def failed(ctx: click.Context, job_id: str | None, queue: str | None, limit: int, as_json: bool) -> None:
    """List the failed jobs, newest first; with an ID, show everything about one."""
    session = session_of(ctx)
    if job_id is not None:
        _show(session, _find(session, job_id), as_json=as_json)
        return
    jobs = session.failed.all(queue=queue, limit=limit or None)
    if as_json:
        session.output.json([as_data(job) for job in jobs])
    elif jobs:
        session.output.table(("ID", "Task", "Queue", "Attempts", "Failed at", "Exception"), list(map(_row, jobs)))
    else:
        session.output.say(_none(session, queue))
    total = session.failed.count(queue=queue) if limit and len(jobs) == limit else 0
    if total > len(jobs):
        session.output.note(f"{len(jobs):,} of {count(total, 'failed job')} shown; --limit 0 shows all.")


@click.command()
@click.argument("job_ids", metavar="ID…|all", nargs=-1, required=True)
@queue_option
@click.pass_context
def retry(ctx: click.Context, job_ids: tuple[str, ...], queue: str | None) -> None:
    """Send failed jobs to their queues again, each from attempt 1; a worker has to be there to run them."""
    if "all" in job_ids and len(job_ids) > 1:
        raise click.UsageError("Give either ids or 'all'.")
    session = session_of(ctx)
    if job_ids == ("all",):
        ids = [job.id for job in session.failed.all(queue=queue)]
        if not ids:
            session.output.say(_none(session, queue))
            return
        unknown: list[str] = []
    else:
        ids, unknown = _sorted_out(session, job_ids, queue)
    sent = send_again(session, ids)
    if sent or not unknown:
        session.output.say(f"{count(sent, 'failed job')} sent again.")
    _complain(session, unknown, queue)
    if unknown or sent < len(ids):
        ctx.exit(Exit.NOT_DONE)


@click.command()
@click.argument("job_ids", metavar="ID…", nargs=-1, required=True)
@click.pass_context
def forget(ctx: click.Context, job_ids: tuple[str, ...]) -> None:
    """Remove the records of failed jobs."""
    session = session_of(ctx)
    unknown = [job_id for job_id in dict.fromkeys(job_ids) if not session.failed.forget(job_id)]
    if forgotten := len(dict.fromkeys(job_ids)) - len(unknown):
        session.output.say(f"{count(forgotten, 'failed job')} forgotten.")
    _complain(session, unknown)
    if unknown:
        ctx.exit(Exit.NOT_DONE)


@click.command()
@click.option("--hours", type=click.FloatRange(min=0), metavar="N", help="Only records that are older than N hours.")
@click.pass_context
def flush(ctx: click.Context, hours: float | None) -> None:
    """Remove the records of all failed jobs."""
    session = session_of(ctx)
    session.output.say(f"{count(session.failed.flush(hours=hours), 'failed job')} forgotten.")


@click.command("prune-failed")
@click.option(
    "--hours",
    type=click.FloatRange(min=0),
    default=24,
    show_default=True,
    metavar="N",
    help="Keep records of the last N hours.",
)
@click.pass_context
def prune_failed(ctx: click.Context, hours: float) -> None:
    """Remove the records of jobs that failed some time ago; meant to be run on a schedule."""
    session = session_of(ctx)
    session.output.say(f"{count(session.failed.prune(hours=hours), 'failed job')} forgotten.")


def send_again(session: Session, job_ids: Iterable[str]) -> int:
    """Retry failed jobs one by one; return how many were sent.

    One that cannot be sent, or that somebody else is retrying, is named on
    standard error and the others go on. A job that somebody else has just
    retried or forgotten is passed over.

    Raises:
        CommandError: The broker did not answer, so no other would go out; the
            message says how many did.
    """
    session.load_tasks()
    sent = 0
    for job_id in job_ids:
        try:
            is_sent = session.failed.retry(job_id)
            sent += is_sent
            left = None if is_sent else session.failed.find(job_id)
            if left is not None and left.claimed_until is not None:
                session.output.note(f"The failed job {job_id} is being retried already. {_told(left.claimed_until)}")
        except StoreUnavailableError as error:
            raise CommandError(f"{_so_far(sent)}{error}", Exit.UNAVAILABLE) from error
        except OperationalError as error:
            raise broker_unavailable(session.app, error, _so_far(sent)) from error
        except KeyboardInterrupt as error:
            raise CommandError(
                f"{_so_far(sent)}Interrupted; the others keep their records.", Exit.INTERRUPTED
            ) from error
        except Exception as error:  # its payload or its route is at fault: the others may be fine
            session.output.note(f"The failed job {job_id} cannot be sent: {type(error).__name__}: {error}")
    return sent


def as_data(job: FailedJob) -> dict[str, Any]:
    """A failed job as values that JSON can carry; the keys are those of the record, and stay."""
    return {
        "id": job.id,
        "connection": job.connection,
        "queue": job.queue,
        "task": job.task,
        "args_repr": job.args_repr,
        "kwargs_repr": job.kwargs_repr,
        "exception": job.exception,
        "traceback": job.traceback,
        "failed_at": job.failed_at.isoformat(),
        "attempts": job.attempts,
        "batch_id": job.batch_id,
        "claimed_until": job.claimed_until and job.claimed_until.isoformat(),
    }


def _none(session: Session, queue: str | None) -> str:
    if settings_of(session.app).failed_store.startswith("null://"):
        return "No failed jobs: 'laravel_failed_store' is null://, which keeps none."
    return f"No failed jobs on the queue {queue!r}." if queue else "No failed jobs."


def _row(job: FailedJob) -> tuple[str, ...]:
    return job.id, job.task, job.queue, str(job.attempts), instant(job.failed_at), job.exception


def _told(claimed_until: datetime) -> str:
    return f"It may have been sent; if that was broken off, it can be retried from {instant(claimed_until)} on."


def _so_far(sent: int) -> str:
    return f"{count(sent, 'failed job')} sent again. " if sent else ""


def _sorted_out(session: Session, job_ids: Iterable[str], queue: str | None) -> tuple[list[str], list[str]]:
    """The ids that are those of failed jobs (of the queue), and the rest; each once."""
    found: list[str] = []
    unknown: list[str] = []
    for job_id in dict.fromkeys(job_ids):
        job = session.failed.find(job_id)
        (unknown if job is None or queue not in {None, job.queue} else found).append(job_id)
    return found, unknown


def _find(session: Session, job_id: str) -> FailedJob:
    job = session.failed.find(job_id)
    if job is None:
        raise CommandError(_unknown(session, job_id))
    return job


def _complain(session: Session, job_ids: Iterable[str], queue: str | None = None) -> None:
    for job_id in job_ids:
        session.output.note(_unknown(session, job_id, queue))


def _unknown(session: Session, job_id: str, queue: str | None = None) -> str:
    known = [job.id for job in session.failed.all(queue=queue, limit=_SEARCHED)]
    where = f" on the queue {queue!r}" if queue else ""
    return f"There is no failed job {job_id!r}{where}.{did_you_mean(job_id, known)}"


def _show(session: Session, job: FailedJob, *, as_json: bool) -> None:
    if as_json:
        session.output.json(as_data(job))
        return
    session.output.facts(
        [
            ("ID", job.id),
            ("Task", job.task),
            ("Queue", job.queue),
            ("Attempts", str(job.attempts)),
            ("Failed at", instant(job.failed_at)),
            *([("Batch", job.batch_id)] if job.batch_id else []),
            *([("Retry", f"Begun, and not ended. {_told(job.claimed_until)}")] if job.claimed_until else []),
            ("Args", job.args_repr),
            ("Kwargs", job.kwargs_repr),
            ("Exception", job.exception),
            ("Traceback", job.traceback),
        ]
    )
