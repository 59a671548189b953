"""From what the scripts of batches answer to records."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_laravel.stores.instants import as_datetime
from celery_laravel.stores.records import BatchChange, BatchRecord, Callback

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

REMEMBERED = 512

_MISSING = object()


@dataclass
class Fixed:
    """What never changes in a batch once it is there."""

    created: bytes
    created_at: datetime
    name: str
    options: Mapping[str, Any]
    callbacks: Mapping[str, Sequence[Mapping[str, Any]]]
    first_exception: Any = _MISSING


class BatchAnswers:
    """Reads answers, and remembers the fixed parts of batches, so that the server need not send them again.

    Which batch a remembered part belongs to is told by the instant of its
    creation: a batch deleted and made anew under its id is another one.
    """

    def __init__(self) -> None:
        self._fixed: dict[str, Fixed] = {}
        self._learning = threading.Lock()  # nobody may add where another looks for the oldest

    def fixed(self, batch_id: str) -> Fixed | None:
        """What is remembered of a batch; whoever asks the server keeps it until the answer is in."""
        return self._fixed.get(batch_id)

    def forget(self, batch_id: str) -> None:
        """Forget a batch that is removed."""
        with self._learning:
            self._fixed.pop(batch_id, None)

    def change(
        self, batch_id: str, answer: Any, fixed: Fixed | None, exception: Mapping[str, Any] | None = None
    ) -> BatchChange | None:
        """The change that an answer tells of, or None for a batch that is not known.

        ``fixed`` is what the server was told to be known, ``exception`` that of
        the member which failed, if one did.
        """
        if answer is None:
            return None
        line, parts = (answer, ()) if isinstance(answer, bytes) else (answer[0], answer[1:])
        changed, total, pending, failed, skipped, is_open, allows, created, cancelled, finished, due = line.split()
        if parts or fixed is None:
            fixed = self._learn(batch_id, created, fixed, *parts[:2])
        record = BatchRecord(
            id=batch_id,
            name=fixed.name,
            total_jobs=int(total),
            pending_jobs=int(pending),
            failed_jobs=int(failed),
            skipped_jobs=int(skipped),
            failed_job_ids=tuple(json.loads(parts[2])) if parts and parts[2] else (),
            options=fixed.options,
            callbacks=fixed.callbacks,
            allows_failures=allows == b"1",
            is_open=is_open == b"1",
            created_at=fixed.created_at,
            cancelled_at=_instant(cancelled),
            finished_at=_instant(finished),
            first_exception=None if fixed.first_exception is _MISSING else fixed.first_exception,
        )
        return BatchChange(record, changed == b"1", () if due == b"-" else tuple(_due(record, due.decode(), exception)))

    def _learn(self, batch_id: str, created: bytes, fixed: Fixed | None, part: bytes, exception: bytes) -> Fixed:
        if part or fixed is None:
            fixed = Fixed(created, as_datetime(int(created)), **json.loads(part))
        if exception:
            fixed.first_exception = json.loads(exception)
        with self._learning:
            self._fixed[batch_id] = fixed
            if len(self._fixed) > REMEMBERED:
                del self._fixed[next(iter(self._fixed))]
        return fixed


def known(fixed: Fixed | None) -> tuple[bytes, int]:
    """What to tell the server: the creation of the batch that is remembered, and whether its first exception is."""
    return (b"", 0) if fixed is None else (fixed.created, int(fixed.first_exception is not _MISSING))


def _due(batch: BatchRecord, told: str, exception: Mapping[str, Any] | None) -> Iterator[Callback]:
    for part in told.split(","):
        kind, _, number = part.partition(":")
        failure = exception if kind == "failure" else None
        for position, signature in enumerate(batch.callbacks.get(kind, ())):
            yield Callback(kind, position, signature, int(number) if number else None, failure)


def _instant(microseconds: bytes) -> datetime | None:
    return None if microseconds == b"-" else as_datetime(int(microseconds))
