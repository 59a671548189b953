"""Batches in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery_laravel import clock
from celery_laravel.errors import BatchFinishedError, BatchNotFoundError
from celery_laravel.stores.records import FAILED_IDS_NAMED, BatchChange, BatchRecord, Callback, Mark, MemberState

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta

    from celery_laravel.stores.records import MemberEnd, NewBatch


@dataclass
class _Batch:
    new: NewBatch
    created_at: float
    members: list[MemberState] = field(default_factory=list)
    pending: int = 0
    skipped: int = 0
    failed_ids: dict[int, str] = field(default_factory=dict)
    is_open: bool = True
    cancelled_at: float | None = None
    finished_at: float | None = None
    first_exception: Any = None
    times_failed: int = 0
    fired: set[str] = field(default_factory=set)
    due: dict[Mark, tuple[float, Callback]] = field(default_factory=dict)


class MemoryBatchStore:
    """A `BatchStore` in a dictionary."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._batches: dict[str, _Batch] = {}

    def create(self, batch: NewBatch) -> BatchRecord:
        kept = replace(batch, options=_as_kept(batch.options), callbacks=_as_kept(batch.callbacks))
        with self._lock:
            if batch.id not in self._batches:
                self._batches[batch.id] = new = _Batch(kept, clock.now())
                _owe(new, "before")
            return _record(self._batches[batch.id])

    def add(self, batch_id: str, count: int) -> int:
        with self._lock:
            batch = self._known(batch_id)
            if batch.finished_at is not None:
                raise BatchFinishedError(batch_id)
            first = len(batch.members)
            batch.members.extend([MemberState.PENDING] * count)
            batch.pending += count
            return first

    def close(self, batch_id: str) -> BatchChange:
        with self._lock:
            batch = self._known(batch_id)
            if not batch.is_open:
                return BatchChange(_record(batch), changed=False)
            batch.is_open = False
            due = _finish(batch)
            return BatchChange(_record(batch), changed=True, due=due)

    def end_member(self, end: MemberEnd) -> BatchChange | None:
        end = replace(end, exception=_as_kept(end.exception))
        with self._lock:
            batch = self._batches.get(end.batch_id)
            if batch is None:
                return None
            if not _is_in(batch, end.index, MemberState.PENDING):
                return BatchChange(_record(batch), changed=False)
            batch.members[end.index] = end.state
            batch.pending -= 1
            for index in end.skips:
                if _is_in(batch, index, MemberState.PENDING):
                    batch.members[index] = MemberState.SKIPPED
                    batch.pending -= 1
                    batch.skipped += 1
            due: tuple[Callback, ...] = ()
            if end.state is MemberState.SKIPPED:
                batch.skipped += 1
            elif end.state is MemberState.FAILED:
                due = _fail(batch, end)
            else:
                due = _owe(batch, "progress", end.index)
            due += _finish(batch)
            return BatchChange(_record(batch), changed=True, due=due)

    def end_members(self, batch_id: str, indices: Sequence[int]) -> BatchChange | None:
        with self._lock:
            batch = self._batches.get(batch_id)
            if batch is None:
                return None
            pending = [index for index in dict.fromkeys(indices) if _is_in(batch, index, MemberState.PENDING)]
            if not pending:
                return BatchChange(_record(batch), changed=False)
            for index in pending:
                batch.members[index] = MemberState.SUCCEEDED
            batch.pending -= len(pending)
            due = tuple(callback for index in sorted(pending) for callback in _owe(batch, "progress", index))
            due += _finish(batch)
            return BatchChange(_record(batch), changed=True, due=due)

    def ended(self, batch_id: str, indices: Sequence[int]) -> frozenset[int]:
        with self._lock:
            members = self._batches[batch_id].members if batch_id in self._batches else []
            return frozenset(
                index for index in indices if 0 <= index < len(members) and members[index] is not MemberState.PENDING
            )

    def revive(self, batch_id: str, index: int, *, job_id: str, skips: Sequence[int] = ()) -> BatchChange | None:
        with self._lock:
            batch = self._batches.get(batch_id)
            if batch is None:
                return None
            if not _is_in(batch, index, MemberState.FAILED) or batch.failed_ids.get(index) != job_id:
                return BatchChange(_record(batch), changed=False)
            del batch.failed_ids[index]
            batch.members[index] = MemberState.PENDING
            batch.pending += 1
            for skipped in skips:
                if _is_in(batch, skipped, MemberState.SKIPPED):
                    batch.members[skipped] = MemberState.PENDING
                    batch.skipped -= 1
                    batch.pending += 1
            batch.finished_at = None
            return BatchChange(_record(batch), changed=True)

    def cancel(self, batch_id: str) -> BatchChange | None:
        with self._lock:
            batch = self._batches.get(batch_id)
            if batch is None:
                return None
            changed = batch.cancelled_at is None
            if changed:
                batch.cancelled_at = clock.now()
            return BatchChange(_record(batch), changed=changed)

    def find(self, batch_id: str) -> BatchRecord | None:
        with self._lock:
            batch = self._batches.get(batch_id)
            return None if batch is None else _record(batch)

    def failed_ids(self, batch_id: str) -> list[str]:
        with self._lock:
            batch = self._batches.get(batch_id)
            return [] if batch is None else list(batch.failed_ids.values())

    def all(self, *, limit: int = 50, before: str | None = None) -> list[BatchRecord]:
        with self._lock:
            newest = sorted(self._batches.values(), key=_age, reverse=True)
            if before is not None:
                last = self._batches.get(before)
                newest = [batch for batch in newest if last is not None and _age(batch) < _age(last)]
            return [_record(batch) for batch in newest[:limit]]

    def delete(self, batch_id: str) -> bool:
        with self._lock:
            return self._batches.pop(batch_id, None) is not None

    def mark_sent(self, batch_id: str, callbacks: Sequence[Mark]) -> None:
        with self._lock:
            batch = self._batches.get(batch_id)
            for mark in callbacks if batch is not None else ():
                batch.due.pop(mark, None)  # type: ignore[union-attr]  # the loop is empty without a batch

    def due(self, *, older_than: timedelta) -> list[tuple[BatchRecord, Callback]]:
        with self._lock:
            latest = clock.now() - older_than.total_seconds()
            waiting = [
                (since, batch, callback)
                for batch in self._batches.values()
                for since, callback in batch.due.values()
                if since <= latest
            ]
            waiting.sort(key=lambda found: found[0])
            return [(_record(batch), callback) for _, batch, callback in waiting]

    def prune(
        self,
        *,
        finished_before: datetime | None = None,
        created_before: datetime | None = None,
        cancelled_before: datetime | None = None,
    ) -> int:
        with self._lock:
            gone = [
                batch_id
                for batch_id, batch in self._batches.items()
                if _is_before(batch.finished_at, finished_before)
                or (batch.finished_at is None and _is_before(batch.created_at, created_before))
                or (batch.cancelled_at is not None and _is_before(batch.created_at, cancelled_before))
            ]
            for batch_id in gone:
                del self._batches[batch_id]
            return len(gone)

    def _known(self, batch_id: str) -> _Batch:
        try:
            return self._batches[batch_id]
        except KeyError:
            raise BatchNotFoundError(batch_id) from None


def _as_kept(value: Any) -> Any:
    """A copy by way of JSON: what a real store would refuse is refused here, and nobody changes what is kept."""
    return json.loads(json.dumps(value))


def _is_before(reading: float | None, instant: datetime | None) -> bool:
    """Compare as a record would: a reading of the clock is finer than its datetime, which may be the later one."""
    return reading is not None and instant is not None and clock.as_datetime(reading) < instant


def _age(batch: _Batch) -> tuple[float, str]:
    return batch.created_at, batch.new.id


def _is_in(batch: _Batch, index: int, state: MemberState) -> bool:
    return 0 <= index < len(batch.members) and batch.members[index] is state


def _fail(batch: _Batch, end: MemberEnd) -> tuple[Callback, ...]:
    batch.failed_ids[end.index] = end.job_id
    batch.times_failed += 1
    due: tuple[Callback, ...] = ()
    if batch.new.allows_failures:
        due = _owe(batch, "failure", batch.times_failed, end.exception)
    elif batch.cancelled_at is None:
        batch.cancelled_at = clock.now()
    if batch.times_failed == 1:
        batch.first_exception = end.exception
    return due + _fire(batch, ["catch"])


def _finish(batch: _Batch) -> tuple[Callback, ...]:
    if batch.is_open or batch.pending:
        return ()
    batch.finished_at = clock.now()
    every_job_succeeded = not batch.failed_ids and not batch.skipped
    is_broken = batch.times_failed and not batch.new.allows_failures
    fired = ["then"] if every_job_succeeded else []
    if every_job_succeeded or not is_broken:
        fired.append("next")
    return _fire(batch, [*fired, "finally"])


def _fire(batch: _Batch, kinds: Iterable[str]) -> tuple[Callback, ...]:
    """Make callbacks due that have not been before, and remember that they are."""
    due: tuple[Callback, ...] = ()
    for kind in kinds:
        if kind not in batch.fired:
            batch.fired.add(kind)
            due += _owe(batch, kind)
    return due


def _owe(batch: _Batch, kind: str, occasion: int | None = None, exception: Any = None) -> tuple[Callback, ...]:
    registered = enumerate(batch.new.callbacks.get(kind, ()))
    due = tuple(Callback(kind, position, signature, occasion, exception) for position, signature in registered)
    batch.due.update({callback.mark: (clock.now(), callback) for callback in due})
    return due


def _record(batch: _Batch) -> BatchRecord:
    return BatchRecord(
        id=batch.new.id,
        name=batch.new.name,
        total_jobs=len(batch.members),
        pending_jobs=batch.pending,
        failed_jobs=len(batch.failed_ids),
        skipped_jobs=batch.skipped,
        failed_job_ids=tuple(islice(batch.failed_ids.values(), FAILED_IDS_NAMED)),
        options=batch.new.options,
        callbacks=batch.new.callbacks,
        allows_failures=batch.new.allows_failures,
        is_open=batch.is_open,
        created_at=clock.as_datetime(batch.created_at),
        cancelled_at=None if batch.cancelled_at is None else clock.as_datetime(batch.cancelled_at),
        finished_at=None if batch.finished_at is None else clock.as_datetime(batch.finished_at),
        first_exception=batch.first_exception,
    )
