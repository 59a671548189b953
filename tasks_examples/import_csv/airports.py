"""The file: how its lines are read, and what makes a row fit to be imported."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATES = {
    *("AL", "AK", "AZ", "AR", "CA", "CO", "CT", "DE", "FL", "GA", "HI", "ID", "IL", "IN", "IA", "KS", "KY", "LA"),
    *("ME", "MD", "MA", "MI", "MN", "MS", "MO", "MT", "NE", "NV", "NH", "NJ", "NM", "NY", "NC", "ND", "OH", "OK"),
    *("OR", "PA", "RI", "SC", "SD", "TN", "TX", "UT", "VT", "VA", "WA", "WV", "WI", "WY"),
    *("DC", "AS", "GU", "MP", "PR", "VI"),
}
"""The postal codes of the states, the federal district and the territories."""

_MISSING = {"", "NA"}


class BadRowError(ValueError):
    """A row that cannot be imported as it is; the message says why."""


@dataclass(frozen=True)
class Airport:
    code: str
    name: str
    city: str
    state: str | None
    country: str
    latitude: float
    longitude: float


def last_line_of(path: Path) -> int:
    """The number of the file's last line. No field of the file spans lines."""
    with path.open(encoding="utf-8") as file:
        return sum(1 for _ in file)


def read_lines(path: Path, first: int, last: int) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows on the lines ``first`` to ``last``, with the number of each line as an editor shows it."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = islice(csv.DictReader(file), first - 2, last - 1)
        yield from enumerate(rows, start=first)


def parse(row: dict[str, str]) -> Airport:
    """An airport from a row.

    Raises:
        BadRowError: Something is missing or wrong; everything that is, is named.
    """
    problems = []
    if row["city"] in _MISSING:
        problems.append("no city")
    is_domestic = row["country"] == "USA"
    if is_domestic and row["state"] in _MISSING:
        problems.append("no state")
    elif is_domestic and row["state"] not in STATES:
        problems.append(f"{row['state']!r} is not a state")
    latitude, longitude = _degrees(row["latitude"], 90), _degrees(row["longitude"], 180)
    if latitude is None or longitude is None:
        problems.append(f"{row['latitude']!r}, {row['longitude']!r} is no place on earth")
    if problems or latitude is None or longitude is None:
        raise BadRowError(", ".join(problems))
    state = row["state"] if is_domestic else None
    return Airport(row["iata"], row["name"], row["city"], state, row["country"], latitude, longitude)


def _degrees(text: str, limit: float) -> float | None:
    try:
        degrees = float(text)
    except ValueError:
        return None
    return degrees if -limit <= degrees <= limit else None
