"""The rows of locks: the statements that are built once and run often."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Boolean, and_, case, exists, false, func, literal, null, or_, select, true, update

from celery_laravel.stores.sqlalchemy.columns import Characters, Key, given, giving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select, Update

    from celery_laravel.stores.sqlalchemy.dialects.contract import Change, Count, Removal, Values
    from celery_laravel.stores.sqlalchemy.engine import Database


class LockRows:
    """Reads and changes the rows of holds within a connection's transaction.

    The parameters of statements: ``key``, ``owner``, ``slot``, ``kind``,
    ``task``, ``is_lease``, ``payload``, ``call`` and ``ttl``, as `giving` gives them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._dialect = database.dialect
        self._table = database.tables.locks

    # -- taking ------------------------------------------------------------------------------------
    @cached_property
    def take(self) -> Change:
        """Take a lock of one slot, or leave a payload with its holder; gives `told` of the row as it then stands.

        None, and nothing done, where somebody holds another slot of the key.
        """
        table, now = self._table.c, self._dialect.now
        is_mine = table.owner == given("owner", Key())
        is_free = table.expires <= now
        is_held = and_(is_mine, table.expires > now)
        may = or_(is_mine, is_free)
        is_repeated = and_(is_held, table.call == given("call"))
        left = func.coalesce(given("payload", Characters()), table.payload)
        values = self._values(slot=_ZERO, was_held=false(), payload=null(), taken=now, expires=now + given("ttl"))
        changes: Values = {
            table.payload: case((is_held, table.payload), (is_free, null()), else_=left),
            table.was_held: case((is_repeated, table.was_held), (may, is_held), else_=table.was_held),
            **{table[name]: case((may, values[table[name]]), else_=table[name]) for name in _AS_ASKED},
            table.taken: case((is_free, now), else_=table.taken),
            table.owner: case((may, values[table.owner]), else_=table.owner),
            table.expires: case((or_(is_mine, is_free), values[table.expires]), else_=table.expires),
        }
        other = self._table.alias("other")
        in_other_slot = and_(other.c.key == given("key", Key()), other.c.slot > _ZERO, other.c.expires > now)
        return self._dialect.put(
            self._table,
            values=values,
            changes=changes,
            columns=self.told,
            only_if=~exists(select(other.c.slot).where(in_other_slot)),
        )

    @property
    def told(self) -> list[ColumnElement[Any]]:
        """What an answer is made of."""
        table = self._table.c
        return [table.owner, table.was_held, table.expires, (table.expires - self._dialect.now).label("remaining")]

    def lock(self, connection: Connection, key: str) -> list[Row[Any]]:
        """Make the row of slot 0 if it is not there, and lock it; all rows of the key, each with ``now``.

        Whoever wants more slots than one begins with this, and so does who
        takes one: they wait for each other at that row.
        """
        parameters = giving(key=key, owner="", kind="", task="", is_lease=False, call=0)

        def lock() -> Row[Any] | None:
            head = connection.execute(self._head, parameters).first()
            if head is None:
                self._make_head(connection, parameters)
            return head

        self._database.until(lock, f"the lock {key!r}")
        return list(connection.execute(self._all_of_key, parameters).all())

    @cached_property
    def write(self) -> Change:
        """Put down a hold, whatever is there, with ``taken``, ``expires``, ``was_held`` and all else as given."""
        table = self._table.c
        values = self._values(
            slot=given("slot"),
            was_held=given("was_held", Boolean()),
            payload=given("payload", Characters()),
            taken=given("taken"),
            expires=given("expires"),
        )
        changes = {column: value for column, value in values.items() if column not in {table.key, table.slot}}
        return self._dialect.put(self._table, values=values, changes=changes, columns=())

    @cached_property
    def leave(self) -> Update:
        """Leave a payload with the hold of a slot."""
        table = self._table.c
        same = (table.key == given("key", Key()), table.slot == given("slot"))
        return update(self._table).where(*same).values({table.payload: given("payload", Characters())})

    # -- holding on --------------------------------------------------------------------------------
    @cached_property
    def confirm(self) -> Update:
        """Give a hold that is no lease another end."""
        table, now = self._table.c, self._dialect.now
        return (
            update(self._table)
            .where(self._mine, self._is_live, table.is_lease == false())
            .values({table.expires: now + given("ttl")})
        )

    @cached_property
    def renew(self) -> Update:
        """Extend the leases of ``owners``."""
        table, end = self._table.c, self._dialect.now + given("ttl")
        owners = table.owner.in_(given("owners", Key(), expanding=True))
        leases = update(self._table).where(owners, table.is_lease == true(), self._is_live)
        return leases.values({table.expires: case((table.expires > end, table.expires), else_=end)})

    # -- freeing -----------------------------------------------------------------------------------
    @cached_property
    def release(self) -> Removal:
        """Free the holds of an owner on ``keys``; those that had expired go with them."""
        table = self._table.c
        mine = and_(table.key.in_(given("keys", Key(), expanding=True)), table.owner == given("owner", Key()))
        return self._dialect.removal(self._table, where=mine, columns=self._freed)

    @cached_property
    def release_all(self) -> Removal:
        """Free all holds of an owner."""
        mine = self._table.c.owner == given("owner", Key())
        return self._dialect.removal(self._table, where=mine, columns=self._freed)

    @cached_property
    def free(self) -> Removal:
        """Free a key."""
        whole = self._table.c.key == given("key", Key())
        return self._dialect.removal(self._table, where=whole, columns=self._freed)

    @property
    def _freed(self) -> list[ColumnElement[Any]]:
        table, now = self._table.c, self._dialect.now
        # Not `is_live` itself: a comparison that is a column is a number on some back ends.
        remaining = (table.expires - now).label("remaining")
        return [table.key, table.kind, table.task, table.payload, remaining]

    # -- reading -----------------------------------------------------------------------------------
    @cached_property
    def listing(self) -> Select[Any]:
        """All holds, the oldest first."""
        table = self._table.c
        return select(self._table).where(self._is_live).order_by(table.taken, table.key, table.slot)

    @cached_property
    def of_key(self) -> Select[Any]:
        """The holds on one lock, the oldest first."""
        return self.listing.where(self._table.c.key == given("key", Key()))

    @property
    def _mine(self) -> ColumnElement[bool]:
        table = self._table.c
        return and_(table.key == given("key", Key()), table.owner == given("owner", Key()))

    @property
    def _is_live(self) -> ColumnElement[bool]:
        return self._table.c.expires > self._dialect.now

    @cached_property
    def _head(self) -> Select[Any]:
        table = self._table.c
        return select(table.slot).where(table.key == given("key", Key()), table.slot == _ZERO).with_for_update()

    @cached_property
    def _make_head(self) -> Count:
        values = self._values(slot=_ZERO, was_held=false(), payload=null(), taken=_ZERO, expires=_ZERO)
        insertion = self._dialect.insert_new(self._table)
        return self._dialect.counted(insertion.values({column.name: value for column, value in values.items()}))

    @cached_property
    def _all_of_key(self) -> Select[Any]:
        table = self._table.c
        rows = select(self._table, self._dialect.now.label("now")).where(table.key == given("key", Key()))
        return rows.order_by(table.slot)

    def _values(self, **others: Any) -> Values:
        table = self._table.c
        as_said = {name: given(name, table[name].type) for name in ("key", "owner", *_AS_ASKED)}
        return {table[name]: value for name, value in (as_said | others).items()}


_ZERO = literal(0, BigInteger())
_AS_ASKED: Sequence[str] = ("kind", "task", "is_lease", "call")
