"""``batches``, ``batch``, ``retry-batch``, ``cancel-batch``, ``close-batch`` and ``prune-batches``."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from celery_laravel.cli.exits import CommandError, Exit
from celery_laravel.cli.failed_jobs import send_again
from celery_laravel.cli.options import json_option, limit_option
from celery_laravel.cli.session import Session, session_of
from celery_laravel.cli.text import count, did_you_mean, instant
from celery_laravel.cli.watching import watch_batch
from celery_laravel.dispatch.failed_jobs import broken_off

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_laravel.dispatch.batch import Batch

_PAGE = 200
_COLUMNS = ("ID", "State", "Progress", "Jobs", "Failed", "Created at", "Name")
_NAMED = 20
"""How many failed jobs of a batch are named; the rest is counted."""


def _hours_option(name: str, told: str, default: float | None = None) -> Callable[[Any], Any]:
    hours = click.FloatRange(min=0)
    return click.option(name, type=hours, default=default, show_default=default is not None, metavar="N", help=told)


@click.command()
@limit_option("newest")
@click.option("--before", metavar="ID", help="Only batches older than this one.")
@json_option
@click.pass_context
def batches(ctx: click.Context, limit: int, before: str | None, as_json: bool) -> None:
    """List the batches, newest first."""
    session = session_of(ctx)
    if before is not None:
        find_batch(session, before)
    found = list(islice(_walk(session, before), limit + 1 if limit else None))
    shown = found[:limit] if limit else found
    if as_json:
        session.output.json([batch.to_dict() for batch in shown])
    elif shown:
        session.output.table(_COLUMNS, list(map(_row, shown)))
    else:
        session.output.say("No batches." if before is None else f"No batches older than {before}.")
    if len(found) > len(shown):
        more = f"--before {shown[-1].id} shows those, --limit 0 all"
        session.output.note(f"{count(len(shown), 'batch')} shown, and there are more: {more}.")


@click.command()
@click.argument("batch_id", metavar="ID")
@click.option("--watch", is_flag=True, help="Follow the batch until it has finished.")
@json_option
@click.pass_context
def batch(ctx: click.Context, batch_id: str, watch: bool, as_json: bool) -> None:
    """Show a batch; with --watch, follow it to its end.

    With --watch and --json, every change is one JSON document on a line of its own.
    """
    session = session_of(ctx)
    found = find_batch(session, batch_id)
    if watch:
        ctx.exit(watch_batch(found, session.output, as_json=as_json))
    if as_json:
        session.output.json(found.to_dict())
    else:
        session.output.facts(_facts(found))


@click.command("retry-batch")
@click.argument("batch_id", metavar="ID")
@click.pass_context
def retry_batch(ctx: click.Context, batch_id: str) -> None:
    """Send the failed jobs of a batch again, each from attempt 1, with the rest of their chains."""
    session = session_of(ctx)
    found = find_batch(session, batch_id)
    failed = found.failed_job_ids
    records = [job for job in map(session.failed.find, failed) if job is not None]
    gone = len(failed) - len(records)
    again = {job.id: job for job in (*broken_off(session.app, found), *records)}
    records = sorted(again.values(), key=lambda job: job.failed_at, reverse=True)
    sent = send_again(session, [job.id for job in records])
    told = f"{count(sent, 'failed job')} sent again." if failed or records else "The batch has no failed jobs."
    session.output.say(told)
    if gone:
        session.output.note(f"{count(gone, 'failed job')} cannot be retried: no record is left.")
    if sent < len(records) + gone:
        ctx.exit(Exit.NOT_DONE)


@click.command("cancel-batch")
@click.argument("batch_id", metavar="ID")
@click.pass_context
def cancel_batch(ctx: click.Context, batch_id: str) -> None:
    """Cancel a batch: jobs that ask see it, and nothing is stopped by force."""
    session = session_of(ctx)
    found = find_batch(session, batch_id)
    if found.cancelled:
        session.output.say(f"The batch was cancelled already, at {instant(found.cancelled_at)}.")
        return
    after = found.cancel()
    session.output.say(f"The batch is cancelled; {count(after.pending_jobs, 'job')} outstanding.")


def _range(_: Any, __: Any, given: tuple[str, ...]) -> list[tuple[int, int]]:
    ranges = []
    for text in given:
        first, _, last = text.partition("-")
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise click.BadParameter(f"{text!r} is no range of numbers, such as 1000-1499.")
        ranges.append((int(first), int(last)))
    return ranges


@click.command("close-batch")
@click.argument("batch_id", metavar="ID")
@click.option("--incomplete", is_flag=True, help="Not all jobs were sent: cancel the batch, and never call `then`.")
@click.option("--unsent", multiple=True, metavar="FIRST-LAST", callback=_range, help="Jobs that will never come.")
@click.pass_context
def close_batch(ctx: click.Context, batch_id: str, incomplete: bool, unsent: list[tuple[int, int]]) -> None:
    """Say that the dispatch of a batch is over, for a program that died or found the store away.

    Do that when the program no longer sends, or what it sends is refused.
    """
    session = session_of(ctx)
    after = find_batch(session, batch_id).close(incomplete=incomplete, unsent=unsent)
    session.output.say(f"The batch is closed; {count(after.pending_jobs, 'job')} outstanding.")


@click.command("prune-batches")
@_hours_option("--hours", "Keep batches that finished within the last N hours.", default=24)
@_hours_option("--unfinished", "Remove unfinished batches, too, that were created more than N hours ago.")
@_hours_option("--cancelled", "Remove cancelled batches, too, that were created more than N hours ago.")
@click.pass_context
def prune_batches(ctx: click.Context, hours: float, unfinished: float | None, cancelled: float | None) -> None:
    """Remove batches that finished some time ago; meant to be run on a schedule.

    Jobs of a removed batch that are still queued run, and are not counted.
    """
    session = session_of(ctx)
    removed = session.bus.prune_batches(hours=hours, unfinished=unfinished, cancelled=cancelled)
    session.output.say(f"{count(removed, 'batch')} removed.")


def state_of(batch: Batch) -> str:
    """A batch's state in a word."""
    if batch.cancelled:
        return "cancelled"
    if not batch.finished:
        return "pending"
    return "failures" if batch.has_failures else "finished"


def _walk(session: Session, before: str | None) -> Iterator[Batch]:
    """Batches, newest first, fetched page by page."""
    while page := session.bus.batches(limit=_PAGE, before=before):
        yield from page
        before = page[-1].id


def _row(batch: Batch) -> tuple[str, ...]:
    done = f"{batch.processed_jobs:,}/{batch.total_jobs:,}"
    return (
        batch.id,
        state_of(batch),
        f"{batch.progress} %",
        done,
        f"{batch.failed_jobs:,}",
        instant(batch.created_at),
        batch.name,
    )


def _facts(batch: Batch) -> list[tuple[str, str]]:
    succeeded = batch.processed_jobs - batch.failed_jobs - batch.skipped_jobs
    counts = {
        "succeeded": succeeded,
        "failed": batch.failed_jobs,
        "never to run": batch.skipped_jobs,
        "outstanding": batch.pending_jobs,
    }
    shares = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
    facts: list[tuple[str, Any]] = [
        ("ID", batch.id),
        ("Name", batch.name),
        ("State", state_of(batch)),
        ("Progress", f"{batch.progress} %"),
        ("Jobs", f"{batch.total_jobs:,} ({shares})" if shares else "0"),
        ("Failures", "allowed" if batch.allows_failures else "the first cancels the batch"),
        ("Created at", instant(batch.created_at)),
        ("Cancelled at", instant(batch.cancelled_at)),
        ("Finished at", instant(batch.finished_at)),
        ("Options", ", ".join(f"{key}={value}" for key, value in batch.options.items())),
    ]
    if ids := sorted(batch.to_dict()["failed_job_ids"]):
        more = [f"… and {batch.failed_jobs - _NAMED:,} more"] if batch.failed_jobs > _NAMED else []
        facts.append(("Failed jobs", "\n".join([*ids[:_NAMED], *more]) + ("\n" if len(ids) > 1 else "")))
    return [(name, value) for name, value in facts if value]


def find_batch(session: Session, batch_id: str) -> Batch:
    """The batch of that id.

    Raises:
        CommandError: There is none; the message names those that resemble it.
    """
    found: Batch | None = session.bus.find_batch(batch_id)
    if found is None:
        known = [batch.id for batch in islice(_walk(session, None), 1000)]
        raise CommandError(f"There is no batch {batch_id!r}.{did_you_mean(batch_id, known)}")
    return found
