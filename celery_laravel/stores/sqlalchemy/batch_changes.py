"""What a step changes in a batch's row, as SQL, and what follows from the row as it then stands.

The row is the lock of its batch. Every step that counts changes it with one
UPDATE in which the counts move, the batch is cancelled or finished, and its
callbacks become due: so whoever changes the row last sees everyone before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, and_, case, false, func, literal_column, or_

from celery_laravel.stores.instants import as_datetime, known_instant
from celery_laravel.stores.records import BatchRecord, Callback
from celery_laravel.stores.sqlalchemy.columns import Json, given

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, FromClause, Row

    from celery_laravel.stores.records import Mark

    Changes = dict[ColumnElement[Any], ColumnElement[Any]]

KINDS = ("catch", "then", "finally")
"""The kinds of callbacks that a batch's own row tells of, in the order in which they are sent."""
ORDER = ("before", "progress", "failure", "catch", "then", "next", "finally")
"""All kinds in that order."""


_NONE, _ONE = literal_column("0", BigInteger), literal_column("1", BigInteger)


def ending(batches: FromClause, now: ColumnElement[int], *, fails: bool = False, skips: bool = True) -> Changes:
    """The changes when pending members end: ``given_ended`` of them, ``given_skipped`` without having run.

    One of them has failed if it ``fails``, with ``given_exception``. Without
    ``skips`` it is one member, which succeeded. The changes are in such an order
    that one which looks at a column comes before the one that changes it: MySQL
    makes them one after another.
    """
    batch = batches.c
    ended = given("ended") if skips else _ONE
    skipped = batch.skipped + given("skipped") if skips else batch.skipped
    finishes = and_(batch.is_open == false(), batch.pending == ended)
    counts: Changes = {batch.pending: batch.pending - ended}
    if skips:
        counts[batch.skipped] = skipped
    if not fails:
        all_succeeded = and_(batch.failed == _NONE, skipped == _NONE)
        return _finishing(batches, now, finishes, all_succeeded) | counts
    is_first = batch.times_failed == _NONE
    is_cancelled_by_it = and_(batch.allows_failures == false(), batch.cancelled_at.is_(None))
    return (
        _finishing(batches, now, finishes, false(), beside={"catch": is_first})
        | {
            batch.first_exception: case((is_first, given("exception", Json())), else_=batch.first_exception),
            batch.cancelled_at: case((is_cancelled_by_it, now), else_=batch.cancelled_at),
            batch.times_failed: batch.times_failed + _ONE,
            batch.failed: batch.failed + _ONE,
        }
        | counts
    )


def closing(batches: FromClause, now: ColumnElement[int]) -> Changes:
    """The changes when the dispatch of an open batch is over."""
    batch = batches.c
    all_succeeded = and_(batch.failed == _NONE, batch.skipped == _NONE)
    return _finishing(batches, now, batch.pending == _NONE, all_succeeded) | {batch.is_open: false()}


def _finishing(
    batches: FromClause,
    now: ColumnElement[int],
    finishes: ColumnElement[bool],
    all_succeeded: ColumnElement[bool],
    beside: dict[str, ColumnElement[bool]] | None = None,
) -> Changes:
    """The changes where the batch ``finishes``; ``beside`` are the conditions of other kinds of callbacks."""
    batch = batches.c
    succeeds = and_(finishes, all_succeeded)
    fired = (beside or {}) | {
        "then": and_(succeeds, batch.times_succeeded == _NONE),
        "finally": and_(finishes, batch.times_finished == _NONE),
    }
    due = {kind: and_(condition, batch[f"{kind}_count"] > _NONE) for kind, condition in fired.items()}
    changes: Changes = {batch.due: case((or_(*due.values()), func.coalesce(batch.due, now)), else_=batch.due)}
    for kind, condition in due.items():
        column = batch[f"{kind}_due"]
        changes[column] = case((condition, now), else_=column)
    return changes | {
        batch.finished_at: case((finishes, now), else_=batch.finished_at),
        batch.times_succeeded: case((succeeds, batch.times_succeeded + _ONE), else_=batch.times_succeeded),
        batch.times_finished: case((finishes, batch.times_finished + _ONE), else_=batch.times_finished),
    }


def told(batches: FromClause) -> list[ColumnElement[Any]]:
    """The columns from which `record_of` and `fired_by` tell what they do."""
    own = ("then_count", "catch_count", "finally_count", "then_due", "catch_due", "finally_due", "due", "sent", "owes")
    return [column for column in batches.c if column.name not in own]


def fired_by(row: Row[Any], *, failed: bool) -> tuple[Callback, ...]:
    """The callbacks that a step made due which left the batch's row like this; ``failed`` if it counted a failure."""
    fired = []
    if failed and row.times_failed == 1:
        fired.append("catch")
    if not row.is_open and row.pending == 0:
        if row.failed == 0 and row.skipped == 0 and row.times_succeeded == 1:
            fired.append("then")
        if row.times_finished == 1:
            fired.append("finally")
    return tuple(callback for kind in fired for callback in callbacks_of(row, kind))


def callbacks_of(row: Row[Any], kind: str) -> Iterator[Callback]:
    """A batch's callbacks of one kind, in their order."""
    for position, signature in enumerate(row.callbacks.get(kind, ())):
        yield Callback(kind, position, signature)


def waiting_in(row: Row[Any], latest: int) -> Iterator[tuple[int, Callback]]:
    """The callbacks that have been due since ``latest`` or before and have not been sent, each with the instant."""
    sent = {(kind, position) for kind, position in row.sent}
    for kind in KINDS:
        since = getattr(row, f"{kind}_due")
        if since is not None and since <= latest:
            yield from ((since, c) for c in callbacks_of(row, kind) if (c.kind, c.position) not in sent)


def in_order(callbacks: tuple[Callback, ...]) -> tuple[Callback, ...]:
    """Callbacks of one step in the order in which they are to be sent."""
    return tuple(sorted(callbacks, key=lambda callback: ORDER.index(callback.kind)))


def without(row: Row[Any], callbacks: Sequence[Mark]) -> dict[str, Any]:
    """The changes to a batch's row once callbacks have been sent."""
    sent = {(kind, position) for kind, position in row.sent} | {(mark.kind, mark.position) for mark in callbacks}
    changes: dict[str, Any] = {"sent": [], "due": None}
    for kind in KINDS:
        since = getattr(row, f"{kind}_due")
        if since is None:
            continue
        marked = [(c.kind, c.position) for c in callbacks_of(row, kind) if (c.kind, c.position) in sent]
        if len(marked) == getattr(row, f"{kind}_count"):
            changes[f"{kind}_due"] = None
        else:
            changes["sent"] += marked
            changes["due"] = since if changes["due"] is None else min(since, changes["due"])
    return changes


def record_of(row: Row[Any], failed_job_ids: Iterable[str]) -> BatchRecord:
    """The batch that a row tells of."""
    return BatchRecord(
        id=row.id,
        name=row.name,
        total_jobs=row.total,
        pending_jobs=row.pending,
        failed_jobs=row.failed,
        skipped_jobs=row.skipped,
        failed_job_ids=tuple(failed_job_ids),
        options=row.options,
        callbacks=row.callbacks,
        allows_failures=row.allows_failures,
        is_open=row.is_open,
        created_at=as_datetime(row.created_at),
        cancelled_at=known_instant(row.cancelled_at),
        finished_at=known_instant(row.finished_at),
        first_exception=row.first_exception,
    )
