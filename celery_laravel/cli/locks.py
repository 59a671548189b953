"""``locks`` and ``unlock``."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from celery_laravel.cli.exits import CommandError
from celery_laravel.cli.options import json_option, limit_option
from celery_laravel.cli.session import Session, session_of
from celery_laravel.cli.text import count, did_you_mean, span

if TYPE_CHECKING:
    from celery_laravel.operations.locks import Locks
    from celery_laravel.stores.records import LockRecord

_SEARCHED = 1000
"""How many locks are looked through for keys that resemble one that nobody holds."""
_COLUMNS = ("Key", "Kind", "Task", "Age", "Expires in", "Owner")


@click.command()
@limit_option("oldest")
@json_option
@click.pass_context
def locks(ctx: click.Context, limit: int, as_json: bool) -> None:
    """List the locks that are held, the oldest first.

    The owner of an overlap lock begins with the id of the job that holds it.
    """
    session = session_of(ctx)
    found = _locks(session).all(limit=limit + 1 if limit else None)
    shown = found[:limit] if limit else found
    if as_json:
        session.output.json([as_data(record) for record in shown])
    elif shown:
        now = datetime.now(timezone.utc)
        session.output.table(_COLUMNS, [_row(record, now) for record in shown])
    else:
        session.output.say("No locks are held.")
    if len(found) > len(shown):
        session.output.note(f"{count(len(shown), 'lock')} shown, and there are more; --limit 0 shows all.")


@click.command()
@click.argument("key", metavar="KEY")
@click.pass_context
def unlock(ctx: click.Context, key: str) -> None:
    """Free a lock, whoever holds it.

    A job that holds it is not told and runs on: make sure that there is none,
    or that a second one beside it does no harm.
    """
    session = session_of(ctx)
    held = _locks(session)
    holders = ", ".join(record.owner for record in held.find(key))
    if not held.release(key):
        known = [record.key for record in held.all(limit=_SEARCHED)]
        raise CommandError(f"Nobody holds a lock {key!r}.{did_you_mean(key, known)}")
    session.output.say(f"The lock {key!r} is free{f'; it was held by {holders}' if holders else ''}.")


def as_data(record: LockRecord) -> dict[str, Any]:
    """A lock as values that JSON can carry; the keys are those of the record, and stay."""
    return {
        "key": record.key,
        "owner": record.owner,
        "task": record.task,
        "kind": record.kind,
        "taken_at": record.taken_at.isoformat(),
        "expires_at": None if record.expires_at is None else record.expires_at.isoformat(),
    }


def _row(record: LockRecord, now: datetime) -> tuple[str, ...]:
    left = "never" if record.expires_at is None else span((record.expires_at - now).total_seconds())
    expires = f"{left}, renewed" if record.is_lease else left
    return record.key, record.kind, record.task, span((now - record.taken_at).total_seconds()), expires, record.owner


def _locks(session: Session) -> Locks:
    """The app's locks. Those that its tasks keep elsewhere are known once the tasks are, if they can be imported."""
    session.try_to_load_tasks("Locks that tasks keep elsewhere (unique_via) may be missing")
    found: Locks = session.bus.locks
    return found
