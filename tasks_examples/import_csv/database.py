"""The database that the file is imported into, and the reports of the callbacks."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import astuple
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tasks_examples.import_csv.airports import Airport

NAME = "airports.db"

_SCHEMA = """
CREATE TABLE airports (
    code TEXT PRIMARY KEY, name TEXT NOT NULL, city TEXT NOT NULL, state TEXT, country TEXT NOT NULL,
    latitude REAL NOT NULL, longitude REAL NOT NULL
);
CREATE TABLE reports (callback TEXT PRIMARY KEY, text TEXT NOT NULL);
"""


def create(folder: Path) -> None:
    """Make the tables."""
    with connect(folder) as db:
        db.executescript(_SCHEMA)


@contextmanager
def connect(folder: Path, *, patience: float = 0.3) -> Iterator[sqlite3.Connection]:
    """A connection that commits at the end, or rolls back; ``patience`` is how many seconds it waits for a lock."""
    db = sqlite3.connect(folder / NAME, timeout=patience)
    try:
        with db:
            yield db
    finally:
        db.close()


def save_airports(db: sqlite3.Connection, airports: Iterable[Airport]) -> None:
    """Store airports; one that is there already is replaced, because a job may run twice."""
    db.executemany("INSERT OR REPLACE INTO airports VALUES (?, ?, ?, ?, ?, ?, ?)", map(astuple, airports))


def count_airports(db: sqlite3.Connection) -> tuple[int, int]:
    """How many airports there are, and in how many states."""
    airports, states = db.execute("SELECT count(*), count(DISTINCT state) FROM airports").fetchone()
    return airports, states


def save_report(db: sqlite3.Connection, callback: str, text: str) -> None:
    """Keep what a callback has to say."""
    db.execute("INSERT OR REPLACE INTO reports VALUES (?, ?)", (callback, text))


def reports(db: sqlite3.Connection) -> dict[str, str]:
    """What the callbacks have said so far."""
    return dict(db.execute("SELECT callback, text FROM reports"))
