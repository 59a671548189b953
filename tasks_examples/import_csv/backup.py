"""What disturbs the import for a moment: somebody else uses the database."""

from __future__ import annotations

import sqlite3
import threading
import time

from tasks_examples.import_csv import database
from tasks_examples.import_csv.app import FOLDER
from tasks_examples.import_csv.tasks import INTERRUPTIONS

_LONGEST = 15  # seconds


class Backup(threading.Thread):
    """Holds the write lock of the database, as a backup or another program may, until a job has met it.

    SQLite then answers that job "database is locked", as it does in earnest.
    """

    def __init__(self) -> None:
        super().__init__(name="backup", daemon=True)
        self._holds = threading.Event()
        self._ended = threading.Event()

    def __enter__(self) -> None:
        self.start()
        self._holds.wait()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        db = sqlite3.connect(FOLDER / database.NAME, isolation_level=None)
        try:
            db.execute("BEGIN IMMEDIATE")
            self._holds.set()
            deadline = time.monotonic() + _LONGEST
            while not INTERRUPTIONS.exists() and time.monotonic() < deadline:
                if self._ended.wait(0.02):
                    break
            db.execute("COMMIT")
        finally:
            self._holds.set()
            db.close()
