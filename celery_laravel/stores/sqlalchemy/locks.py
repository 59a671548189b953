"""Locks in an SQL database."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from celery_laravel.stores.instants import SECOND, as_datetime
from celery_laravel.stores.records import LockAnswer, LockRecord
from celery_laravel.stores.sqlalchemy.columns import FOR_EVER, giving, lasting
from celery_laravel.stores.sqlalchemy.lock_rows import LockRows
from celery_laravel.stores.sqlalchemy.pruning import ExpiredRows, Pruning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    from sqlalchemy import Connection, Row

    from celery_laravel.stores.records import LockRequest
    from celery_laravel.stores.sqlalchemy.dialects.contract import Parameters
    from celery_laravel.stores.sqlalchemy.engine import Database

_SLICE = 500  # keys or owners in one statement: SQLite takes no more than some thousand, older ones 999


class SQLLockStore:
    """A `LockStore` in a table with a row for each hold.

    A lock of one slot is taken, refused and has a payload left with it in one
    statement; a semaphore takes a transaction. An owner that asks again is
    told what it was told before if the store itself asks again, because an
    answer was lost.
    """

    server = None

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = LockRows(database)
        self._pruning = Pruning(database, ExpiredRows(database, database.tables.locks.c.key))

    def acquire(self, request: LockRequest) -> LockAnswer:
        parameters = _parameters(request)
        answer = None
        if request.slots == 1:
            answer = self._database.single(lambda connection: self._take(connection, request, parameters))
        if answer is None:
            answer = self._database.transaction(lambda connection: self._take_slot(connection, request, parameters))
        self._pruning.now_and_then()
        return answer

    def acquire_within(self, connection: Connection, request: LockRequest) -> LockAnswer:
        """`acquire`, as part of a transaction."""
        parameters = _parameters(request)
        answer = self._take(connection, request, parameters) if request.slots == 1 else None
        return answer or self._take_slot(connection, request, parameters)

    def acquire_and_push(self, request: LockRequest, *, target: str, message: str) -> LockAnswer:
        raise NotImplementedError("A store in a database has no lists of a broker's.")

    def confirm(self, key: str, *, owner: str, ttl: timedelta | None) -> None:
        parameters = giving(key=key, owner=owner, ttl=_lasting(ttl))
        self._database.single(lambda connection: connection.execute(self._rows.confirm, parameters))

    def release(self, keys: Sequence[str], *, owner: str) -> Mapping[str, str | None]:
        # Not repeatable: the answer tells what this call freed.
        freed = [row for part in _sliced(keys) for row in self._release(part, owner, repeatable=False)]
        return {row.key: row.payload for row in freed if row.remaining > 0}

    def release_soon(self, keys: Sequence[str], *, owner: str) -> None:
        for part in _sliced(keys):
            self._release(part, owner, repeatable=True)

    def set_aside(self, key: str, to: str, *, owner: str, ttl: timedelta) -> str | None:
        def work(connection: Connection) -> str | None:
            held = [row for row in self._rows.release(connection, giving(keys=[key], owner=owner)) if row.remaining > 0]
            if not held or held[0].payload is None:
                rows = connection.execute(self._rows.of_key, giving(key=to)).all()
                return next((row.payload for row in rows if row.owner == owner), None)
            self._keep(connection, to, owner, held[0], ttl)
            return str(held[0].payload)

        return self._database.transaction(work)

    def release_all(self, owner: str) -> int:
        return self._count(lambda connection: self._rows.release_all(connection, giving(owner=owner)))

    def renew(self, owners: Sequence[str], *, ttl: timedelta) -> int:
        return sum(self._renew(giving(owners=part, ttl=lasting(ttl))) for part in _sliced(owners))

    def find(self, key: str) -> list[LockRecord]:
        parameters = giving(key=key)
        rows = self._database.single(lambda connection: connection.execute(self._rows.of_key, parameters).all())
        return [_record(row) for row in rows]

    def all(self, *, limit: int | None = None) -> list[LockRecord]:
        statement = self._rows.listing if limit is None else self._rows.listing.limit(limit)
        return [_record(row) for row in self._database.single(lambda c: c.execute(statement).all())]

    def free(self, key: str) -> int:
        return self._count(lambda connection: self._rows.free(connection, giving(key=key)))

    def prune(self) -> int:
        return self._pruning.all()

    # -- steps -------------------------------------------------------------------------------------
    def _take(self, connection: Connection, request: LockRequest, parameters: Parameters) -> LockAnswer | None:
        """Take a lock of one slot in one statement; None where other slots of it are held, as after a change."""
        row = self._rows.take(connection, parameters)
        if row is None:
            return None
        if row.owner == request.owner:
            return _taken(request, was_held=row.was_held)
        return LockAnswer(False, row.owner, _seconds(row.expires, row.remaining))

    def _take_slot(self, connection: Connection, request: LockRequest, parameters: Parameters) -> LockAnswer:
        """Take one of several slots: the owner's own, or a free one."""
        rows = self._rows.lock(connection, request.key)
        held = [row for row in rows if row.expires > row.now]
        mine = next((row for row in held if row.owner == request.owner), None)
        if mine is None and len(held) >= request.slots:
            first = min(held, key=lambda row: (row.expires, row.taken, row.slot))
            if request.payload is not None:
                connection.execute(self._rows.leave, {**parameters, **giving(slot=first.slot)})
            return LockAnswer(False, first.owner, _seconds(first.expires, first.expires - first.now))
        self._write(connection, rows, mine, {**parameters, **giving(payload=None if mine is None else mine.payload)})
        return _taken(request, was_held=mine is not None)

    def _release(self, keys: Sequence[str], owner: str, *, repeatable: bool) -> Sequence[Row[Any]]:
        parameters = giving(keys=keys, owner=owner)
        return self._database.single(lambda c: self._rows.release(c, parameters), repeatable=repeatable)

    def _count(self, removal: Callable[[Connection], Sequence[Row[Any]]]) -> int:
        rows = self._database.single(removal, repeatable=False)
        return sum(row.remaining > 0 for row in rows)

    def _renew(self, parameters: Parameters) -> int:
        return self._database.single(lambda connection: connection.execute(self._rows.renew, parameters).rowcount)

    def _keep(self, connection: Connection, key: str, owner: str, freed: Row[Any], ttl: timedelta) -> None:
        """Keep what was left with a hold in another, of which there may be any number."""
        rows = self._rows.lock(connection, key)
        said = giving(
            key=key,
            owner=owner,
            kind=freed.kind,
            task=freed.task,
            is_lease=False,
            payload=freed.payload,
            call=_call(),
            ttl=lasting(ttl),
        )
        # A payload that is there already is of an earlier call; this one is newer.
        mine = next((row for row in rows if row.owner == owner and row.expires > row.now), None)
        self._write(connection, rows, mine, said, is_new=True)

    def _write(
        self,
        connection: Connection,
        rows: Sequence[Row[Any]],
        mine: Row[Any] | None,
        parameters: Parameters,
        *,
        is_new: bool = False,
    ) -> None:
        slot = mine.slot if mine is not None else _first_free(rows)
        now = rows[0].now
        taken = mine.taken if mine is not None and not is_new else now
        more = giving(slot=slot, taken=taken, was_held=mine is not None, expires=now + parameters["given_ttl"])
        self._rows.write(connection, {**parameters, **more})


def _parameters(request: LockRequest) -> Parameters:
    return giving(
        key=request.key,
        owner=request.owner,
        kind=request.kind,
        task=request.task,
        is_lease=request.is_lease,
        payload=request.payload,
        call=_call(),
        ttl=_lasting(request.ttl),
    )


def _call() -> int:
    return random.getrandbits(63)


def _lasting(ttl: timedelta | None) -> int:
    return FOR_EVER if ttl is None else lasting(ttl)


def _seconds(expires: int, remaining: int) -> float | None:
    return None if expires >= FOR_EVER else max(0, remaining) / SECOND


def _taken(request: LockRequest, *, was_held: bool) -> LockAnswer:
    seconds = None if request.ttl is None else request.ttl.total_seconds()
    return LockAnswer(True, request.owner, seconds, was_held=was_held)


def _first_free(rows: Sequence[Row[Any]]) -> int:
    held = {row.slot for row in rows if row.expires > row.now}
    return next(slot for slot in range(len(held) + 1) if slot not in held)


def _sliced(items: Sequence[str]) -> list[list[str]]:
    ordered = sorted(set(items))
    return [ordered[start : start + _SLICE] for start in range(0, len(ordered), _SLICE)]


def _record(row: Row[Any]) -> LockRecord:
    return LockRecord(
        key=row.key,
        owner=row.owner,
        kind=row.kind,
        task=row.task,
        taken_at=as_datetime(row.taken),
        expires_at=None if row.expires >= FOR_EVER else as_datetime(row.expires),
        is_lease=row.is_lease,
    )
