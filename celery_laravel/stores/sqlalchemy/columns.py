"""Tables as every back end makes them, and the types of columns, which give back equal what they keep."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Integer, Table, Text, bindparam
from sqlalchemy.dialects.mysql import LONGTEXT, VARCHAR
from sqlalchemy.types import TypeDecorator

from celery_laravel.stores.instants import SECOND

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy import BindParameter, Column, Index, MetaData, UniqueConstraint
    from sqlalchemy.engine import Dialect
    from sqlalchemy.types import TypeEngine

LONGEST_ID = 255
_LONGEST_KEPT_KEY = 320  # PostgreSQL indexes 2,704 bytes a row, MySQL 3,072; a character takes up to four
_COLLATION = "utf8mb4_bin"  # MySQL's usual collations find "a" when asked for "A"
_ESCAPED = "\x01json:"
_LONGEST_TIME = 10**17  # microseconds; some 3,000 years, and far from where 64 bits end
FOR_EVER = 10**18
"""Microseconds: as a duration and as an instant, what does not end; any instant after it is none of a calendar."""


class Characters(TypeDecorator[str]):
    """Text of any characters and any length.

    PostgreSQL refuses NUL, and no server takes the lone surrogates that a
    damaged message may bring. Text that holds such a character is kept as
    JSON behind a mark. So is text with a blank at its end where that would
    count for nothing: to MySQL's collations "a " is "a". All other text is
    kept as it is.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text, as long as the back end can keep it."""
        if dialect.name == "mysql":
            return dialect.type_descriptor(LONGTEXT(collation=_COLLATION))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The text as it is kept."""
        if value is None:
            return None
        if "\x00" in value or value.startswith(_ESCAPED) or not _is_encodable(value):
            return _ESCAPED + json.dumps(value)
        if value.endswith(" ") and dialect.name == "mysql":
            return _ESCAPED + json.dumps(value, ensure_ascii=False)
        return value

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """The text as it was given."""
        if value is not None and value.startswith(_ESCAPED):
            return str(json.loads(value.removeprefix(_ESCAPED)))
        return value


class Identifier(Characters):
    """The id of a job, a batch or an owner: indexed, and so no longer than MySQL allows."""

    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text of a length that every back end can index."""
        if dialect.name == "mysql":
            return dialect.type_descriptor(VARCHAR(LONGEST_ID, collation=_COLLATION))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The id as it is kept.

        Raises:
            ValueError: It is longer than the back ends can index.
        """
        kept = super().process_bind_param(value, dialect)
        if kept is not None and len(kept) > LONGEST_ID:
            msg = f"The id {value!r:.60}… has {len(kept)} characters; an SQL store keeps ids of at most {LONGEST_ID}."
            raise ValueError(msg)
        return kept


class Key(Characters):
    """A key that people choose, or an owner: any text of 255 characters, indexed, and beside another in one index.

    Characters that are kept escaped count for more.
    """

    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text of a length of which every back end can index two."""
        if dialect.name == "mysql":
            return dialect.type_descriptor(VARCHAR(_LONGEST_KEPT_KEY, collation=_COLLATION))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The key as it is kept.

        Raises:
            ValueError: It is longer than the back ends can index.
        """
        kept = super().process_bind_param(value, dialect)
        if kept is not None and value is not None and len(kept) > _LONGEST_KEPT_KEY:
            msg = (
                f"The key or owner {value!r:.60}… has {len(value)} characters; an SQL store keeps {LONGEST_ID}, "
                "and fewer where some are such as NUL."
            )
            raise ValueError(msg)
        return kept


class Json(TypeDecorator[Any]):
    """A value as JSON in a column of text, so that the order of keys is kept; None is NULL."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text, as long as the back end can keep it."""
        if dialect.name == "mysql":
            return dialect.type_descriptor(LONGTEXT(collation=_COLLATION))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """The value in ASCII: everything else is escaped, and so no back end can object."""
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """The value as it was given."""
        return None if value is None else json.loads(value)


class Identifiers(Json):
    """Several columns of `Identifier` that the back end has put into one text as JSON."""

    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """The ids as they were given."""
        ids = super().process_result_value(value, dialect)
        return ids and [Identifier().process_result_value(kept, dialect) for kept in ids]


Microseconds = BigInteger
"""An instant since the epoch, or a duration: whole microseconds are exact where a double would be nearly so."""

Number = BigInteger().with_variant(Integer, "sqlite")
"""A row's own number; SQLite counts by itself in its INTEGER alone."""


def table(metadata: MetaData, name: str, *parts: Column[object] | Index | UniqueConstraint, has_number: bool) -> Table:
    """A table of columns and indexes; one that numbers its rows says so."""
    return Table(
        name,
        metadata,
        *parts,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=has_number,  # else the primary key is the table, and not an index beside it
    )


def _is_encodable(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def microseconds(seconds: float) -> int:
    """Seconds as they are kept; a time beyond all calendars becomes one that 64 bits can add to."""
    return min(round(seconds * SECOND), _LONGEST_TIME) if seconds < _LONGEST_TIME else _LONGEST_TIME


def lasting(duration: timedelta) -> int:
    """A duration as it is kept."""
    return microseconds(duration.total_seconds())


def given(name: str, type_: Any = None, *, expanding: bool = False) -> BindParameter[Any]:
    """A parameter of a statement that is built once and run often; `giving` gives it its value."""
    return bindparam(f"given_{name}", type_=BigInteger() if type_ is None else type_, expanding=expanding)


def giving(**values: Any) -> dict[str, Any]:
    """The values of `given` parameters; SQLAlchemy keeps the bare names of columns to itself."""
    return {f"given_{name}": value for name, value in values.items()}
