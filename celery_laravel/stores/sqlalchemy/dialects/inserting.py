"""What an INSERT puts: one row of values, or what is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, FromClause

    from celery_laravel.stores.sqlalchemy.dialects.contract import Values


def filled(
    insertion: Any, values: Values, *, only_if: ColumnElement[bool] | None = None, source: FromClause | None = None
) -> Any:
    """An INSERT of these values: for each row of ``source``, or one row, and that ``only_if`` a condition holds."""
    if only_if is None and source is None:
        return insertion.values({column.name: value for column, value in values.items()})
    chosen = select(*values.values())
    if source is not None:
        chosen = chosen.select_from(source)
    if only_if is not None:
        chosen = chosen.where(only_if)
    return insertion.from_select(list(values), chosen)
