"""What SQLite and PostgreSQL share: ON CONFLICT and RETURNING."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete

from celery_laravel.stores.sqlalchemy.dialects.contract import Dialect
from celery_laravel.stores.sqlalchemy.dialects.inserting import filled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Column, ColumnElement, Connection, Insert, Row, Table, Update

    from celery_laravel.stores.sqlalchemy.dialects.contract import (
        Change,
        Count,
        Parameters,
        Removal,
        Upsert,
        Values,
    )


class OnConflict(Dialect):
    """A dialect with ON CONFLICT and RETURNING, whose statements commit by themselves."""

    isolation = "AUTOCOMMIT"

    @abstractmethod
    def _insert(self, table: Table) -> Any:
        """An INSERT of the dialect's own, which has ON CONFLICT."""

    def insert_new(self, table: Table) -> Insert:
        statement: Insert = self._insert(table).inline().on_conflict_do_nothing()
        return statement

    def counted(self, insertion: Insert) -> Count:
        returning = insertion.returning(*insertion.table.primary_key)  # drivers do not count rows of every INSERT
        return lambda connection, parameters: len(connection.execute(returning, parameters).all())

    def upsert(
        self,
        table: Table,
        *,
        values: Values,
        changes: Values,
        where: ColumnElement[bool],
        returning: Column[Any],
        is_mostly_new: bool,
    ) -> Upsert:
        statement = self.upsert_from(table, values=values, changes=changes, where=where).returning(returning)
        return lambda connection, parameters: connection.execute(statement, parameters).scalar()

    def put(
        self,
        table: Table,
        *,
        values: Values,
        changes: Values,
        columns: Sequence[ColumnElement[Any]],
        only_if: ColumnElement[bool] | None = None,
    ) -> Change:
        begun = filled(self._insert(table).inline(), values, only_if=only_if)
        statement = self._or_change(begun, table, values, changes)
        if columns:
            statement = statement.returning(*columns)

        def run(connection: Connection, parameters: Parameters) -> Row[Any] | None:
            result = connection.execute(statement, parameters)
            return result.first() if columns else None

        return run

    def upsert_from(
        self, table: Table, *, values: Values, changes: Values, where: ColumnElement[bool], source: Any = None
    ) -> Any:
        """The statement of `upsert`; with a ``source``, for as many rows as that has."""
        begun = filled(self._insert(table).inline(), values, source=source)
        return self._or_change(begun, table, values, changes, where)

    @staticmethod
    def _or_change(
        begun: Any, table: Table, values: Values, changes: Values, where: ColumnElement[bool] | None = None
    ) -> Any:
        changed = {c.name: begun.excluded[c.name] if value is values.get(c) else value for c, value in changes.items()}
        return begun.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed, where=where)

    def removal(self, table: Table, *, where: ColumnElement[bool], columns: Sequence[ColumnElement[Any]]) -> Removal:
        statement = delete(table).where(where).returning(*columns)
        return lambda connection, parameters: connection.execute(statement, parameters).all()

    def change(self, statement: Update, *, columns: Sequence[ColumnElement[Any]], where: ColumnElement[bool]) -> Change:
        returning = statement.returning(*columns)
        return lambda connection, parameters: connection.execute(returning, parameters).first()
