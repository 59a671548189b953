"""The jobs of the import, and what happens around them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery_laravel import Bus, signals
from tasks_examples.import_csv import database
from tasks_examples.import_csv.airports import BadRowError, last_line_of, parse, read_lines
from tasks_examples.import_csv.app import FOLDER, app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery.canvas import Signature

    from celery_laravel import Batch

SOURCE = FOLDER / "airports.csv"
INTERRUPTIONS = FOLDER / "interruptions.jsonl"

LINES_PER_JOB = 10  # few, so that there is something to watch; hundreds serve a real import better


class BadRowsError(Exception):
    """Rows that cannot be imported as they are; the message names each one by its line."""


def start_import() -> Batch:
    """Dispatch the import of the whole file as one batch."""
    batch: Batch = (
        Bus(app)
        .batch(_jobs())
        .name("Import airports")
        .allow_failures()
        .then(announce.s())
        .catch(alert.s())
        .finally_(summarise.s())
        .dispatch()
    )
    return batch


def _jobs() -> Iterator[Signature]:
    last = last_line_of(SOURCE)
    for first in range(2, last + 1, LINES_PER_JOB):  # line 1 names the columns
        yield import_lines.s(first, min(first + LINES_PER_JOB - 1, last))


@app.task(bind=True, tries=5, backoff=[1, 2, 4])
def import_lines(self: Any, first: int, last: int) -> int:
    """Import some lines of the file, and return how many.

    The good rows go in, whatever the others are like. The bad ones fail the
    job at once: trying again cannot help before somebody has mended the file.
    Any exception, such as a database that is locked for a moment, is another
    matter: the job is tried again. A row that is imported twice is stored once.
    """
    if self.batch is not None and self.batch.cancelled:
        return 0
    good, bad = [], []
    for line, row in read_lines(SOURCE, first, last):
        try:
            good.append(parse(row))
        except BadRowError as error:
            bad.append(f"line {line}, {row['iata']}: {error}")
    with database.connect(FOLDER) as db:
        database.save_airports(db, good)
    if bad:
        self.fail(BadRowsError("; ".join(bad)))
    return len(good)


@app.task(tries=5, backoff=1)
def alert(batch: Batch, exc: Exception) -> None:
    """``catch``: runs once, at the first failure, while the other jobs go on."""
    with database.connect(FOLDER) as db:
        database.save_report(db, "catch", f"{batch.name}: the first failure is {exc}")


@app.task(tries=5, backoff=1)
def summarise(batch: Batch) -> None:
    """``finally``: runs once, when every job has run, well or not."""
    with database.connect(FOLDER) as db:
        airports, states = database.count_airports(db)
        jobs = f"{batch.total_jobs:,} jobs have run, {batch.failed_jobs:,} failed"
        database.save_report(db, "finally", f"{jobs}: {airports:,} airports in {states} states and territories")


@app.task(tries=5, backoff=1)
def announce(batch: Batch) -> None:
    """``then``: runs once, when every job has succeeded, be it after a retry."""
    with database.connect(FOLDER) as db:
        airports, _ = database.count_airports(db)
        database.save_report(db, "then", f"{batch.name}: complete, with {airports:,} airports")


@signals.job_exception_occurred.connect
def remember(sender: Any, args: Any, exception: BaseException, **_: Any) -> None:
    """Write down every exception of a job, so that the demo can tell afterwards which ones were tried again."""
    entry = {"task": sender.name, "args": list(args), "exception": f"{type(exception).__name__}: {exception}"}
    with INTERRUPTIONS.open("a") as log:
        log.write(json.dumps(entry) + "\n")
