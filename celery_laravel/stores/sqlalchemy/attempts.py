"""Attempts in an SQL database."""

from __future__ import annotations

from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, SmallInteger, and_, case, delete, literal, or_, select, update

from celery_laravel.stores.instants import SECOND
from celery_laravel.stores.records import AttemptEnd, AttemptStart, StartStatus
from celery_laravel.stores.sqlalchemy.columns import Identifier, given, giving, lasting, microseconds
from celery_laravel.stores.sqlalchemy.pruning import ExpiredRows, Pruning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import timedelta

    from sqlalchemy import ColumnElement, Connection, Delete, Row, Select, Update

    from celery_laravel.stores.records import LockRequest
    from celery_laravel.stores.sqlalchemy.dialects.contract import Parameters, Upsert, Values
    from celery_laravel.stores.sqlalchemy.engine import Database
    from celery_laravel.stores.sqlalchemy.locks import SQLLockStore

OPEN, RELEASED, OVER = range(3)
_SLICE = 500  # ids in one statement: SQLite takes no more than some thousand, older ones 999


class SQLAttemptStore:
    """An `AttemptStore` in a table with one row a job."""

    def __init__(self, database: Database, locks: SQLLockStore) -> None:
        self._database = database
        self._locks = locks
        self._table = database.tables.attempts
        self._pruning = Pruning(database, ExpiredRows(database, self._table.c.job_id))

    def begin(
        self,
        job_id: str,
        *,
        turn: int,
        attempts: int,
        exceptions: int,
        owner: str,
        lease: timedelta,
        keep: timedelta,
        lock: LockRequest | None = None,
    ) -> AttemptStart:
        parameters = giving(
            job_id=job_id,
            turn=turn,
            attempts=attempts + 1,
            exceptions=exceptions,
            owner=owner,
            lease=lasting(lease),
            keep=lasting(keep),
            kept=lasting(max(lease, keep)),
        )
        begin = partial(self._start, parameters) if lock is None else partial(self._start_locked, parameters, lock)
        start = self._database.until(begin, f"the entry of job {job_id}")
        self._pruning.now_and_then()
        return start

    def _start(self, parameters: Parameters) -> AttemptStart | None:
        """Start an attempt, or say why not; None when the reason has gone meanwhile."""
        # Not repeatable: a start that was made, and made again, would count as a crash.
        attempt = self._database.single(lambda c: self._begin(c, parameters), repeatable=False)
        if attempt is not None:
            return AttemptStart(StartStatus.STARTED, attempt, parameters["given_exceptions"])
        return self._database.single(lambda connection: self._refused(connection, parameters))

    def _start_locked(self, parameters: Parameters, lock: LockRequest) -> AttemptStart | None:
        """`_start` with a lock, in one transaction."""
        return self._database.transaction(lambda connection: self._take_and_start(connection, parameters, lock))

    def _take_and_start(self, connection: Connection, parameters: Parameters, lock: LockRequest) -> AttemptStart | None:
        """The lock's row first, the job's second: always in this order, so that no two wait for each other."""
        answer = self._locks.acquire_within(connection, lock)
        if answer.acquired:
            attempt = self._begin(connection, parameters)
            if attempt is not None:
                return AttemptStart(StartStatus.STARTED, attempt, parameters["given_exceptions"])
        refusal = self._refused(connection, parameters)
        if refusal is None and not answer.acquired:
            return AttemptStart(StartStatus.LOCKED, delay=answer.expires_in or 0.0, holder=answer.owner)
        connection.rollback()  # an attempt that does not start for a reason of its own leaves the lock alone
        return refusal

    def _refused(self, connection: Connection, parameters: Parameters) -> AttemptStart | None:
        """Why the attempt may not start; None when it may by now."""
        row = connection.execute(self._look, parameters).first()
        return None if row is None else _refusal(row, parameters["given_turn"], parameters["given_owner"])

    def end(self, end: AttemptEnd, *, keep: timedelta) -> bool:
        return self._database.single(lambda connection: self.end_within(connection, end, keep=keep))

    def end_within(self, connection: Connection, end: AttemptEnd, *, keep: timedelta) -> bool:
        """`end`, as part of a transaction."""
        return self._end(connection, self.end_parameters(end, keep=keep)) is not None

    def renew(self, owners: Mapping[str, str], *, lease: timedelta) -> frozenset[str]:
        def work(connection: Connection) -> frozenset[str]:
            held: set[str] = set()
            for job_ids in _sliced(sorted(owners)):
                rows = connection.execute(self._running, giving(job_ids=job_ids))
                mine = [row.job_id for row in rows if owners[row.job_id] == row.owner]
                if mine:
                    connection.execute(self._renewal, giving(job_ids=mine, lease=lasting(lease)))
                    held.update(mine)
            return frozenset(held)

        return self._database.transaction(work)

    def forestall(self, job_id: str, *, keep: timedelta) -> bool:
        nothing = AttemptEnd(job_id, 0, is_final=True, attempts=0)
        parameters = self.end_parameters(nothing, keep=keep)

        def work(connection: Connection) -> bool:
            if self._forestalling(connection, parameters) is not None:
                return True
            row = connection.execute(self._look, parameters).first()
            return row is not None and (row.turn, row.attempts, row.state) == (0, 0, OVER)

        return self._database.transaction(work)

    def forget(self, job_id: str) -> bool:
        work = partial(self._removed, self._forgetting, giving(job_id=job_id))
        return self._database.single(work, repeatable=False) > 0

    def prune(self) -> int:
        return self._pruning.all()

    @staticmethod
    def _removed(statement: Delete, parameters: Parameters, connection: Connection) -> int:
        return connection.execute(statement, parameters).rowcount

    # -- statements --------------------------------------------------------------------------------
    @cached_property
    def _begin(self) -> Upsert:
        table, now = self._table.c, self._database.dialect.now
        values = self._values(
            state=OPEN, owner=given("owner", Identifier()), until=_lease_end(now), expires=now + given("kept")
        )
        is_again = and_(table.expires > now, table.turn == values[table.turn])
        may_start = or_(table.until <= now, table.owner == values[table.owner])
        return self._database.dialect.upsert(
            self._table,
            values=values,
            changes={
                table.attempts: case(
                    (and_(is_again, table.attempts >= values[table.attempts]), table.attempts + 1),
                    else_=values[table.attempts],
                ),
                **_all_but(values, table.job_id, table.attempts),
            },
            where=or_(self._is_past(values), and_(is_again, table.state == OPEN, may_start)),
            returning=table.attempts,
            is_mostly_new=True,
        )

    @cached_property
    def _end(self) -> Upsert:
        return self._database.dialect.upsert(
            self._table,
            values=self.end_values,
            changes=self.end_changes,
            where=self.may_end,
            returning=self._table.c.turn,
            is_mostly_new=False,
        )

    @cached_property
    def _forestalling(self) -> Upsert:
        return self._database.dialect.upsert(
            self._table,
            values=self.end_values,
            changes=self.end_changes,
            where=self._table.c.expires <= self._database.dialect.now,
            returning=self._table.c.turn,
            is_mostly_new=True,
        )

    @cached_property
    def end_values(self) -> Values:
        """The row of a turn that has ended, with the parameters of `end_parameters`."""
        due = self._database.dialect.now + given("delay")
        return self._values(
            state=given("state", SmallInteger()),
            owner=given("owner", Identifier()),
            until=due,
            expires=due + given("keep"),
        )

    @property
    def end_changes(self) -> Values:
        """What the end of a turn changes in the row that is there."""
        return _all_but(self.end_values, self._table.c.job_id)

    @cached_property
    def may_end(self) -> ColumnElement[bool]:
        """Whether the row that is there lets the turn end."""
        table, values = self._table.c, self.end_values
        return or_(self._is_past(values), and_(table.turn == values[table.turn], table.state == OPEN))

    @staticmethod
    def end_parameters(end: AttemptEnd, *, keep: timedelta) -> Parameters:
        """The parameters of an end, as its statements take them."""
        return giving(
            job_id=end.job_id,
            turn=end.turn,
            attempts=end.attempts,
            exceptions=end.exceptions,
            state=OVER if end.is_final else RELEASED,
            owner="",
            delay=0 if end.is_final else microseconds(end.delay),
            keep=lasting(keep),
        )

    def _values(self, *, state: Any, **others: ColumnElement[Any]) -> Values:
        table = self._table.c
        as_said = {name: given(name, table[name].type) for name in ("job_id", "attempts", "exceptions", "keep", "turn")}
        return {table[name]: value for name, value in (as_said | {"state": state} | others).items()}

    def _is_past(self, values: Values) -> ColumnElement[bool]:
        """Whether the row that is there has expired, or is of an earlier turn."""
        table = self._table.c
        return or_(table.expires <= self._database.dialect.now, table.turn < values[table.turn])

    @cached_property
    def _look(self) -> Select[Any]:
        now = self._database.dialect.now
        mine = self._table.c.job_id == given("job_id", Identifier())
        return select(self._table, now.label("now")).where(mine, self._table.c.expires > now)

    @cached_property
    def _running(self) -> Select[Any]:
        """Locks in one order, so that two who renew do not wait for each other."""
        table = self._table.c
        is_running = and_(table.state == OPEN, table.expires > self._database.dialect.now)
        job_ids = given("job_ids", Identifier(), expanding=True)
        columns = select(table.job_id, table.owner)
        return columns.where(table.job_id.in_(job_ids), is_running).order_by(table.job_id).with_for_update()

    @cached_property
    def _renewal(self) -> Update:
        table, now = self._table.c, self._database.dialect.now
        kept = case((table.keep > given("lease"), table.keep), else_=given("lease"))
        renewed = {table.until: _lease_end(now), table.expires: now + kept}
        job_ids = given("job_ids", Identifier(), expanding=True)
        return update(self._table).where(table.job_id.in_(job_ids)).values(renewed)

    @cached_property
    def _forgetting(self) -> Delete:
        table = self._table.c
        return delete(self._table).where(table.job_id == given("job_id", Identifier()))


def _lease_end(now: ColumnElement[int]) -> ColumnElement[int]:
    """When a lease runs out; one of no length is over for those too who looked at the clock and then had to wait."""
    return case((given("lease") > 0, now + given("lease")), else_=literal(0, BigInteger()))


def _all_but(values: Values, *columns: Any) -> Values:
    return {column: value for column, value in values.items() if column not in columns}


def _refusal(row: Row[Any], turn: int, owner: str) -> AttemptStart | None:
    """Why a turn may not start, given what is known of the job; None when it may by now."""
    if row.turn > turn or (row.turn == turn and row.state == OVER):
        return AttemptStart(StartStatus.OVER)
    left = max(0, row.until - row.now) / SECOND
    if row.turn == turn and row.state == RELEASED:
        return AttemptStart(StartStatus.RELEASED, row.attempts, row.exceptions, left)
    if row.turn == turn and left and row.owner != owner:
        return AttemptStart(StartStatus.RUNNING, delay=left)
    return None


def _sliced(job_ids: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(job_ids)
    while part := list(islice(remaining, _SLICE)):
        yield part
