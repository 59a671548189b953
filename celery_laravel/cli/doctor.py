"""``doctor``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from celery_laravel.cli.batches import find_batch
from celery_laravel.cli.exits import Exit
from celery_laravel.cli.options import json_option
from celery_laravel.cli.session import Session, session_of
from celery_laravel.cli.text import count, instant
from celery_laravel.operations.doctor import Examination, Finding, Level, examine
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from celery_laravel.stores.records import BatchRecord


@click.command()
@click.option("--batch", "batch_id", metavar="ID", help="Say why this batch does not go on.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=10,
    show_default=True,
    metavar="MINUTES",
    help="Look into batches that have not finished and are older.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=2,
    show_default=True,
    metavar="SECONDS",
    help="How long workers have to answer.",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, batch_id: str | None, older_than: float, timeout: float, as_json: bool) -> None:
    """Look for what is wrong with the store, the broker, the workers and the batches, and say what to do.

    Ends with 1 when something has to be mended.
    """
    session = session_of(ctx)
    session.load_tasks()
    batch = None if batch_id is None else _record(session, batch_id)
    found = examine(session.app, batch=batch, patience=timedelta(minutes=older_than), timeout=timeout)
    if as_json:
        session.output.json(_as_data(found))
    else:
        _tell(session, found)
    if not found.is_healthy:
        ctx.exit(Exit.NOT_DONE)


def _record(session: Session, batch_id: str) -> BatchRecord:
    find_batch(session, batch_id)  # which says what is wrong with an id that is not known
    record = store_of(session.app).batches.find(batch_id)
    assert record is not None, "it was there a moment ago"
    return record


def _as_data(found: Examination) -> dict[str, object]:
    return {
        "healthy": found.is_healthy,
        "store": found.store,
        "workers": [worker.to_dict() for worker in found.workers],
        "findings": [finding.to_dict() for finding in found.findings],
    }


def _tell(session: Session, found: Examination) -> None:
    for finding in found.findings:
        session.output.say(_text(finding))
    problems = sum(finding.level is Level.PROBLEM for finding in found.findings)
    seen = f"{count(len(found.workers), 'worker')} answered; the store is {found.store}."
    session.output.say(f"{count(problems, 'problem') if problems else 'Nothing is wrong'}. {seen}")


def _text(finding: Finding) -> str:
    lines = [f"{finding.level.value.upper()}  {finding.problem}"]
    if finding.since is not None:
        lines.append(f"  since: {instant(finding.since)}")
    lines.append(f"  to do: {finding.advice}")
    return "\n".join([*lines, ""])
