"""Batches on Redis: a hash, two bits a member, and a hash of the failed ones' ids."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery_laravel.errors import BatchFinishedError, BatchNotFoundError
from celery_laravel.stores.instants import MICROSECOND, as_microseconds
from celery_laravel.stores.records import Callback, Mark, MemberState
from celery_laravel.stores.redis.batch_answers import BatchAnswers, known
from celery_laravel.stores.redis.keys import MEMORY_OF_CALLS
from celery_laravel.stores.redis.scripts import script

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime, timedelta

    from celery_laravel.stores.records import BatchChange, BatchRecord, MemberEnd, NewBatch
    from celery_laravel.stores.redis.cluster import ClusterConnections
    from celery_laravel.stores.redis.connections import Connections
    from celery_laravel.stores.redis.keys import Keys
    from celery_laravel.stores.redis.scripts import Argument, Call, Script

PAGE = 200
PAGE_OF_IDS = 1000
DUE_AT_ONCE = 1000
_KINDS = ("before", "progress", "failure", "catch", "then", "next", "finally")

_CREATE, _ADD, _CLOSE, _END = script("create"), script("add"), script("close"), script("end_member")
_REVIVE, _CANCEL, _FIND, _DELETE = script("revive"), script("cancel"), script("find"), script("delete")
_PRUNE, _DUE, _SETTLE = script("prune"), script("due"), script("settle")
_END_MANY, _ENDED = script("end_members"), script("ended")


class RedisBatchStore:
    """A `BatchStore` on Redis.

    What never changes in a batch is sent by the server once to each process,
    and remembered for a number of batches: an answer is then one line.
    """

    def __init__(self, connections: Connections | ClusterConnections, keys: Keys) -> None:
        self._connections = connections
        self._keys = keys
        self.answers = BatchAnswers()

    def create(self, batch: NewBatch) -> BatchRecord:
        fixed = json.dumps({"name": batch.name, "options": dict(batch.options), "callbacks": dict(batch.callbacks)})
        arguments: list[Argument] = [fixed, int(batch.allows_failures)]
        arguments += [len(batch.callbacks.get(kind, ())) for kind in _KINDS]
        change = self._ask(_CREATE, batch.id, arguments, self._keys.index_of(batch.id))
        assert change is not None
        return change.batch

    def add(self, batch_id: str, count: int) -> int:
        keys = (*self._keys.batch(batch_id), self._keys.batch_call(batch_id))
        first = self._connections.call(_ADD, keys, (batch_id, "", "", count, MEMORY_OF_CALLS))
        if first is None:
            raise BatchNotFoundError(batch_id)
        if first < 0:
            raise BatchFinishedError(batch_id)
        return int(first)

    def close(self, batch_id: str) -> BatchChange:
        change = self._ask(_CLOSE, batch_id)
        if change is None:
            raise BatchNotFoundError(batch_id)
        return change

    def end_member(self, end: MemberEnd) -> BatchChange | None:
        return self._ask(_END, end.batch_id, (*end_arguments(end), *ranges(end.skips)), exception=end.exception)

    def end_members(self, batch_id: str, indices: Sequence[int]) -> BatchChange | None:
        return self._ask(_END_MANY, batch_id, ranges(sorted(indices)))

    def ended(self, batch_id: str, indices: Sequence[int]) -> frozenset[int]:
        wanted = sorted(indices)
        answer = self._connections.call(_ENDED, self._keys.batch(batch_id), (batch_id, "", "", *wanted))
        return frozenset(index for index, flag in zip(wanted, answer, strict=True) if flag == ord("1"))

    def revive(self, batch_id: str, index: int, *, job_id: str, skips: Sequence[int] = ()) -> BatchChange | None:
        call = self._keys.batch_call(batch_id)
        return self._ask(_REVIVE, batch_id, (index, job_id, MEMORY_OF_CALLS, *ranges(skips)), call)

    def cancel(self, batch_id: str) -> BatchChange | None:
        return self._ask(_CANCEL, batch_id)

    def find(self, batch_id: str) -> BatchRecord | None:
        change = self._ask(_FIND, batch_id)
        return None if change is None else change.batch

    def failed_ids(self, batch_id: str) -> list[str]:
        found: dict[bytes, bytes] = {}  # by index: going through a hash may show one twice
        cursor = b"0"
        while True:
            key = self._keys.batch(batch_id)[2]
            cursor, page = self._connections.command("HSCAN", key, cursor, "COUNT", PAGE_OF_IDS)
            found.update(page.items() if isinstance(page, dict) else zip(page[::2], page[1::2], strict=True))
            if int(cursor) == 0:
                return [job_id.decode() for job_id in found.values()]

    def all(self, *, limit: int = 50, before: str | None = None) -> list[BatchRecord]:
        end = b"+"
        if before is not None:
            created = self._connections.command("HGET", self._keys.batch(before)[0], "created")
            if created is None:
                return []
            end = b"(%b:%b" % (created, before.encode())
        places: list[bytes] = []
        for index in self._keys.indices:
            places += self._connections.command("ZREVRANGEBYLEX", index, end, "-", "LIMIT", 0, limit)
        places.sort(reverse=True)
        found = self._find_many(_batch_id(place) for place in places[:limit])
        return [record for record in found.values() if record is not None]

    def delete(self, batch_id: str) -> bool:
        keys = (*self._keys.batch(batch_id), self._keys.index_of(batch_id))
        self.answers.forget(batch_id)
        return bool(self._connections.call(_DELETE, keys, (batch_id, "", "")) == 1)

    def mark_sent(self, batch_id: str, callbacks: Sequence[Mark]) -> None:
        marks = [_written(batch_id, mark) for mark in callbacks if mark.kind in _KINDS]
        if marks:
            self._connections.command("ZREM", self._keys.due_of(batch_id), *marks)
        exceptions = [_kept_under(mark) for mark in callbacks if mark.kind == "failure"]
        if exceptions:
            self._connections.command("HDEL", self._keys.batch(batch_id)[0], *exceptions)

    def due(self, *, older_than: timedelta) -> list[tuple[BatchRecord, Callback]]:
        calls = [((due,), (older_than // MICROSECOND, DUE_AT_ONCE)) for due in self._keys.dues]
        marks: list[tuple[float, bytes]] = []
        for answer in self._connections.call_many(_DUE, calls):
            marks += [(float(since), mark) for mark, since in zip(answer[::2], answer[1::2], strict=True)]
        marks.sort()
        waiting = [_read_mark(mark) for _, mark in marks]
        batches = self._find_many(batch_id for batch_id, _ in waiting)
        due = []
        for batch_id, mark in waiting:
            batch = batches[batch_id]
            registered = () if batch is None else batch.callbacks.get(mark.kind, ())
            if batch is None or mark.position >= len(registered):  # evicted, deleted, or deleted and made anew
                self.mark_sent(batch_id, [mark])
                continue
            exception = self._exception(batch_id, mark) if mark.kind == "failure" else None
            due.append((batch, Callback(mark.kind, mark.position, registered[mark.position], mark.occasion, exception)))
        return due

    def prune(
        self,
        *,
        finished_before: datetime | None = None,
        created_before: datetime | None = None,
        cancelled_before: datetime | None = None,
    ) -> int:
        bounds = [
            f"{as_microseconds(instant):016d}" if instant is not None else ""
            for instant in (finished_before, created_before, cancelled_before)
        ]
        latest = max(bounds)  # what was not created by then can neither have finished
        pruned = 0
        for index in self._keys.indices if latest else ():
            for places in self._pages(index, f"({latest}".encode()):
                calls: list[Call] = []
                for place in places:
                    batch_id = _batch_id(place)
                    keys = (*self._keys.batch(batch_id), index)
                    calls.append((keys, (batch_id, "", "", *bounds, place)))
                pruned += sum(self._connections.call_many(_PRUNE, calls))
        return pruned

    def _pages(self, index: str, end: bytes) -> Iterator[list[bytes]]:
        start = b"-"
        while places := self._connections.command("ZRANGEBYLEX", index, start, end, "LIMIT", 0, PAGE):
            yield places
            start = b"(" + places[-1]

    def settle(self, end: MemberEnd, attempt_key: str, attempt: Sequence[Argument]) -> BatchChange | None:
        """Bring a member to its end and end its job's turn, on a server that has both."""
        arguments = (*end_arguments(end), *attempt, *ranges(end.skips))
        return self._ask(_SETTLE, end.batch_id, arguments, attempt_key, exception=end.exception)

    def _ask(
        self, script: Script, batch_id: str, arguments: Sequence[Argument] = (), *keys: str, exception: Any = None
    ) -> BatchChange | None:
        fixed = self.answers.fixed(batch_id)
        arguments = (batch_id, *known(fixed), *arguments)
        answer = self._connections.call(script, (*self._keys.batch(batch_id), *keys), arguments)
        return self.answers.change(batch_id, answer, fixed, exception)

    def _exception(self, batch_id: str, mark: Mark) -> Any:
        kept = self._connections.command("HGET", self._keys.batch(batch_id)[0], _kept_under(mark))
        return None if kept is None else json.loads(kept)

    def _find_many(self, batch_ids: Iterable[str]) -> dict[str, BatchRecord | None]:
        """The batches of these ids, in their order; None where one has gone meanwhile."""
        wanted = list(dict.fromkeys(batch_ids))
        found: dict[str, BatchRecord | None] = {}
        for start in range(0, len(wanted), PAGE):
            some = wanted[start : start + PAGE]
            fixed = [self.answers.fixed(batch_id) for batch_id in some]
            calls = [
                (self._keys.batch(batch_id), (batch_id, *known(part)))
                for batch_id, part in zip(some, fixed, strict=True)
            ]
            answers = self._connections.call_many(_FIND, calls)
            for batch_id, answer, part in zip(some, answers, fixed, strict=True):
                change = self.answers.change(batch_id, answer, part)
                found[batch_id] = None if change is None else change.batch
        return found


def end_arguments(end: MemberEnd) -> tuple[Argument, ...]:
    """What the scripts take for the end of a member, without its skips."""
    exception = json.dumps(end.exception) if end.state is MemberState.FAILED else ""
    return end.index, int(end.state), end.job_id, exception


def ranges(indices: Sequence[int]) -> list[int]:
    """Indices as first, last, first, last…: the rest of a chain is one range."""
    found: list[int] = []
    for index in indices:
        if found and index == found[-1] + 1:
            found[-1] = index
        else:
            found += [index, index]
    return found


def _written(batch_id: str, mark: Mark) -> str:
    occasion = "-" if mark.occasion is None else mark.occasion
    return f"{_KINDS.index(mark.kind)}:{mark.kind}:{mark.position:06d}:{occasion}:{batch_id}"


def _kept_under(mark: Mark) -> str:
    """The field of a batch in which the exception of a failure is kept until its callback has been sent."""
    return f"failure:{mark.position}:{mark.occasion}"


def _read_mark(mark: bytes) -> tuple[str, Mark]:
    _, kind, position, occasion, batch_id = mark.decode().split(":", 4)
    return batch_id, Mark(kind, int(position), None if occasion == "-" else int(occasion))


def _batch_id(place: bytes) -> str:
    return place.decode().partition(":")[2]
