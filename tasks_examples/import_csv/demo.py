"""Import a real file into SQLite through one batch, with a real worker and no server at all.

The worker, its broker, its results and its store live in SQLite files in
``var/demo`` (or ``$IMPORT_CSV_FOLDER``), which is emptied at the start and left
as it is at the end, so that the failed jobs can be looked at and tried again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks_examples.import_csv import database, tasks
from tasks_examples.import_csv.app import FOLDER
from tasks_examples.import_csv.backup import Backup
from tasks_examples.import_csv.interrupts import Interrupts, StoppedError
from tasks_examples.import_csv.screen import Screen
from tasks_examples.import_csv.worker import Worker, WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_laravel import Batch

ORIGINAL = Path(__file__).with_name("airports.csv")

_OURS = ("*.db", "*.db-*", "airports.csv", "interruptions.jsonl", "worker.log")
_LONGEST = 120  # seconds for everything


def run() -> int:
    """Run the demo; return its exit code."""
    interrupts = Interrupts()
    screen, worker = Screen(), Worker(interrupts)
    try:
        with _time_limit(), _folder_of_our_own():
            _prepare()
            screen.introduce()
            batch = _import(worker, screen)
            screen.report(batch, _reports())
    except KeyboardInterrupt:
        worker.stop()
        screen.complain("Stopped. The worker has ended; nothing is left running.")
        return 130
    except WorkerDiedError as error:
        screen.show_log(worker.log_end())
        screen.complain(str(error))
        return 1
    except StoppedError as error:
        screen.complain(str(error))
        return 1
    finally:
        worker.stop()
        interrupts.ignore()
    return 0


def _import(worker: Worker, screen: Screen) -> Batch:
    """Import the file, and return the batch as it ended."""
    with screen.progress() as progress, Backup():
        worker.start()
        batch = tasks.start_import()
        for snapshot in batch.watch():
            progress.update(snapshot)
            batch = snapshot
        _wait_for_callbacks(batch)
        worker.stop()
    return batch


def _wait_for_callbacks(batch: Batch) -> None:
    """Wait until the callbacks that are due have said what they have to say: they are jobs of their own."""
    due = {"finally", "catch" if batch.has_failures else "then"}
    while not due <= _reports().keys():
        time.sleep(0.05)


def _reports() -> dict[str, str]:
    with database.connect(FOLDER, patience=5) as db:
        return database.reports(db)


def _prepare() -> None:
    """Empty the folder of what an earlier run left there, and of nothing else."""
    for pattern in _OURS:
        for path in FOLDER.glob(pattern):
            path.unlink()
    shutil.copy(ORIGINAL, tasks.SOURCE)
    database.create(FOLDER)


@contextmanager
def _folder_of_our_own() -> Iterator[None]:
    """Keep a second demo out of the folder for as long as this one runs."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    handle = os.open(FOLDER, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoppedError(f"Another demo is running in {FOLDER}. Wait for it, or stop it.") from error
        yield
    finally:
        os.close(handle)


@contextmanager
def _time_limit() -> Iterator[None]:
    """Give up when everything takes far too long."""

    def expire(*_: Any) -> None:
        raise StoppedError(f"The import has not finished within {_LONGEST} s.")

    signal.signal(signal.SIGALRM, expire)
    signal.alarm(_LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    sys.exit(run())
