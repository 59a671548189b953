"""What a back end has to say for itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Column, ColumnElement, Connection, Insert, Row, Table, Update
    from sqlalchemy.engine import URL

    Parameters = Mapping[str, Any]
    Values = Mapping[Column[Any], ColumnElement[Any]]
    Upsert = Callable[[Connection, Parameters], Any]
    Change = Callable[[Connection, Parameters], "Row[Any] | None"]
    Count = Callable[[Connection, Parameters], int]
    Removal = Callable[[Connection, Parameters], "Sequence[Row[Any]]"]


class Dialect(ABC):
    """One back end's ways."""

    name: ClassVar[str]
    isolation: ClassVar[str]
    """With which the engine's connections are opened. Statements on their own are then as many transactions."""
    begin: ClassVar[str | None]
    """Opens a transaction that may write; None where the driver does it."""
    snapshot: ClassVar[Sequence[str]]
    """Opens a transaction whose statements all read the same instant."""
    begins_by_itself: ClassVar[bool] = False
    """Whether a statement on its own is part of a transaction that the client has to commit."""
    makes_its_schema: ClassVar[bool] = False
    """Whether the tables are made when the store is first used."""

    @property
    @abstractmethod
    def now(self) -> ColumnElement[int]:
        """The instant of the statement in microseconds, the same wherever it stands in it."""

    @abstractmethod
    def insert_new(self, table: Table) -> Insert:
        """An INSERT that leaves a row alone that is there already."""

    @abstractmethod
    def counted(self, insertion: Insert) -> Count:
        """Make an INSERT of `insert_new` that tells how many rows were not there."""

    @abstractmethod
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
        """Insert a row, or change the one there is if ``where`` holds of it.

        The call gives ``returning`` of the row as it then stands, or None when
        ``where`` did not hold. ``changes`` are in such an order that one that
        looks at a column comes before the one that changes it.
        """

    @abstractmethod
    def put(
        self,
        table: Table,
        *,
        values: Values,
        changes: Values,
        columns: Sequence[ColumnElement[Any]],
        only_if: ColumnElement[bool] | None = None,
    ) -> Change:
        """Insert a row, or change the one there is, whatever it is like; the call gives its ``columns`` afterwards.

        With no columns to give, it gives None, and may take a statement less.
        Unless ``only_if`` holds, nothing happens and the call gives None.
        ``changes`` are in such an order that one that looks at a column comes
        before the one that changes it. Callers that put the same row wait for
        each other, and are no deadlock.
        """

    @abstractmethod
    def removal(self, table: Table, *, where: ColumnElement[bool], columns: Sequence[ColumnElement[Any]]) -> Removal:
        """Make a DELETE that gives ``columns`` of the rows that it removed."""

    @abstractmethod
    def listed(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """The values of a column in all rows, as one text that is JSON; NULL or an empty list where there are none."""

    @abstractmethod
    def change(self, statement: Update, *, columns: Sequence[ColumnElement[Any]], where: ColumnElement[bool]) -> Change:
        """Make an UPDATE of one row that gives ``columns`` of the changed row back, or None when there was none.

        ``where`` finds the row afterwards.
        """

    @abstractmethod
    def is_passing(self, error: BaseException) -> bool:
        """Whether the transaction was the victim of others, undone, and may be tried again."""

    @abstractmethod
    def lacks_tables(self, error: BaseException) -> bool:
        """Whether a table or a column is not there: the schema has not been made, or is an older one."""

    def is_replica(self, error: BaseException) -> bool:
        """Whether the server takes no changes, because it follows another one."""
        return False

    def arguments(self, url: URL) -> dict[str, Any]:
        """Arguments for the driver's ``connect`` beside those in the URL."""
        return {}

    def prepare(self, connection: Any) -> None:  # noqa: B027  most need nothing
        """Set up a new connection of the driver's."""

    def prepare_database(self, connection: Connection) -> None:  # noqa: B027  most need nothing
        """Set up the database where it makes its tables by itself, once a process."""

    def descriptor(self, connection: Any) -> int | None:
        """The socket of a connection of the driver's, if it has one."""
        return None

    @contextmanager
    def migrating(self, connection: Connection, prefix: str) -> Iterator[None]:
        """Keep other migrations of this prefix out, and commit at the end."""
        yield
        connection.commit()
