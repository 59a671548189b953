"""Options that several commands have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_SHOWN = 50

json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")


def limit_option(which: str) -> Callable[[Any], Any]:
    """``--limit``, for a list that begins with the newest, the oldest, or whichever it says."""
    return click.option(
        "--limit",
        type=click.IntRange(min=0),
        default=_SHOWN,
        show_default=True,
        metavar="N",
        help=f"Show at most N, the {which}; 0 for all.",
    )
