"""Where commands write: rich tables on a terminal, plain columns everywhere else, or one JSON document."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from celery_laravel.cli.text import one_line, padded, visible, width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

GAP = "  "


class Output:
    """Standard output as it is: a terminal that shows colours, or a file or pipe that must get none.

    rich draws the tables where it is installed (``celery-laravel[cli]``).
    Without it, or when the output is no terminal, columns are aligned with
    blanks and nothing is cut off, so that ``grep`` and ``awk`` see everything.
    """

    def __init__(self, *, no_color: bool = False) -> None:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character gets its escape; the command goes on.
            with contextlib.suppress(AttributeError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # of a real file
        self.console = _console(no_color) if sys.stdout.isatty() else None

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show rows under their columns; on a terminal too narrow for that, each row as a block of lines."""
        lines = [[one_line(cell) for cell in row] for row in rows]
        if self.console is None:
            self._plain_table(columns, lines)
        elif sum(_widths(columns, lines)[:-1]) + len(GAP) * len(columns) + _LEAST > self.console.width:
            self._stacked(columns, lines)
        else:
            self._rich_table(columns, lines)

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Show names and values, one to a line; a value of several lines stands below its name."""
        longest = max(width(name) for name, _ in facts)
        for name, value in facts:
            text = visible(value).rstrip()
            below = "\n" in text
            if below:
                text = "\n" + "\n".join(f"  {line}" for line in text.splitlines())
            if self.console is None:
                click.echo(f"{name}:{text}" if below else f"{padded(name + ':', longest + 1)}{GAP}{text}")
            else:
                from rich.text import Text

                label = name if below else padded(name, longest)
                self.console.print(Text.assemble((label, "bold"), "" if below else GAP, text), soft_wrap=True)

    def say(self, text: str) -> None:
        """Say what was done."""
        click.echo(visible(text))

    def note(self, text: str) -> None:
        """Say something beside the output proper: it goes to standard error."""
        click.echo(visible(text), err=True)

    def json(self, value: Any) -> None:
        """Write one JSON document, in plain ASCII, so that every terminal and pipe carries it."""
        click.echo(json.dumps(value, indent=2, default=str))

    def _plain_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = [[column.upper() for column in columns], *rows]
        widths = _widths(columns, rows)
        for row in table:
            click.echo(GAP.join(map(padded, row, widths)).rstrip())

    def _rich_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        assert self.console is not None
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for column, natural in zip(columns, _widths(columns, rows), strict=True):
            least = None if column == columns[-1] else natural
            table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=least, style=_STYLES.get(column, ""))
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)

    def _stacked(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich.text import Text

        assert self.console is not None
        label = max(map(width, columns))
        for row in rows:
            for index, (column, cell) in enumerate(zip(columns, row, strict=True)):
                style = "bold" if index == 0 else _STYLES.get(column, "")
                self.console.print(Text.assemble((padded(column, label), "dim"), GAP, (cell, style)), soft_wrap=True)
            self.console.print()


_STYLES = {"Exception": "red", "Task": "cyan", "Name": "cyan"}
_LEAST = 24
"""Columns that the last column of a table gets on a terminal; what does not fit ends in an ellipsis."""


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """How wide each column has to be to show everything."""
    return [max(width(row[index]) for row in [columns, *rows]) for index in range(len(columns))]


def _console(no_color: bool) -> Console | None:
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        return None
    return Console(no_color=no_color or None, highlight=False, markup=False, emoji=False)
