"""Every example runs, with a real worker where it has one, and prints what its reader is told to expect."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.worker import ROOT

EXAMPLES = ROOT / "tasks_examples"

EXPECTED = {
    "attempts": [
        "fetch_price('tea'): attempt 3",
        "charge('stolen') failed for good: the bank refuses this card",
        "=> tea costs 42",
        "=> report.pdf sent on attempt 3",
        "=> ManuallyFailedError: the bank refuses this card",
        "=> OSError: no route to host",
    ],
    "batches": [
        "album 'summer': 10 pictures added",
        "catch: the first failure of 'Pictures': picture ",
        "finally: 'Pictures' is complete, 2 failed; report in pictures.txt",
        "=> 41 jobs, 2 failed, cancelled: False",
        "then: all 3 jobs of 'Three' succeeded",
        "finally: 'Party' is cancelled, 1 failed; report in party.txt",
        "=> cancelled: True, 1 of 8 failed",
    ],
    "batches_in_chains": [
        "fetch: Summer",
        "before: 'Summer'",
        "progress: 'Summer'",
        "left out of 'Summer': nothing but noise",
        "=> Summer: 2 of 3 tracks published",
        "=> Winter is not published: nothing but noise",
        "catch: nothing but noise",
    ],
    "chains_in_batches": [
        "birds is out",
        "stars is out",
        "finally: 6 succeeded, 1 failed, 2 never ran",
        "=> 9 of 9 accounted for, 100 %",
    ],
    "closures": [
        "=> 42",
        "alert: an order without prices",
        "=> ValueError('an order without prices')",
        "resized and published",
        "then: 3 jobs done",
        "=> finished: True",
    ],
    "crashes": [
        "decode('broken.avi'): attempt 2",
        "=> fine.avi decoded on attempt 2",
        "this would be attempt 3 of 2",
        "=> 1 failed job kept",
    ],
    "delays": [
        "=> waiting: remind('Ada',) remind('Grace',) remind('the board',)",
        "=> called off: True",
        "=> Ada again reminded",
        "=> synchronised on attempt 2",
        "=> the board's reminder: REVOKED",
        "=> waiting: 0",
    ],
    "eager": [
        "=> tea costs 42, said on attempt 3",
        "=> None",
        "then: 100 % of 'Prices'",
        "=> finished: True",
        "=> the shop did not answer",
        "was released for 30 s, and dispatch_sync has no queue",
    ],
    "database_broker": [
        "=> the worker answers: {'ok': 'pong'}",
        "=> in the table: [('parcels', 2)]",
        "a letter delivered",
        "a book delivered",
        "=> in the table: []",
    ],
    "embedded_default": [
        "=> 5",
        "=> a countdown waits in the file: yes",
        "=> the worker answers: {'ok': 'pong'}",
        "=> revoked: yes",
        "=> files: broker.db results.db",
    ],
    "failed_jobs": [
        "=> import_prices failed after 2 attempts",
        "FileNotFoundError, called with prices.txt",
        "=> 1 sent again, under the same id, from attempt 1",
        "=> 3 prices imported, 0 failed jobs left",
    ],
    "limits": [
        "=> for gold, each on attempt: 1 1 1",
        "=> ada's three started within ",
        "=> 1 Low Road located on attempt ",
        "=> 2 High Road located on attempt ",
        "=> report 3 is built",
        "=> logins: [True, True, False]",
    ],
    "locks": [
        "=> balances: 10 10",
        "=> rates refreshed once",
        "attempt 1 holds overlap:tasks_examples.locks.close_account:2, a lock of kind overlap",
        "=> account 2 closed on attempt 2",
        "=> locks held: 0",
    ],
    "middleware": [
        "attempt 1: the service is down, again in 0.2 s",
        "nothing is sent to DE",
        "SendLetter(3, 'NZ'): fast",
        "=> order 1 sent to NZ on attempt 2",
        "=> letter about order 3 sent to NZ",
        "=> None '250 g' ValueError('no parcel is lighter than nothing')",
    ],
    "packs": [
        "word 7 is released, and goes on in a message of its own",
        "finally: 1000 of 1000 processed, 1 failed",
        "=> 1000 jobs, failed: ManuallyFailedError: word 13 is misspelt",
    ],
    "signals": [
        "job_queued: greet",
        "job_processing: greet('Ada',), attempt 2",
        "job_exception_occurred: nobody at the door",
        "job_released: again in 0.1 s",
        "job_processed: greet",
        "batch_finished: Greetings, 1 job",
        "=> 100 %",
    ],
    "throttled": [
        "call 2: the partner does not answer",
        "call 3: the partner is back",
        "=> order 1 is synchronised",
        "=> order 2 is synchronised",
        "=> PermissionError(\"wrong password '1234'\")",
    ],
    "timeouts": [
        "ask_slow_server: attempt 2",
        "=> the answer to 'why?'",
        "render ran longer than its timeout of 1 seconds",
    ],
    "unique_jobs": [
        "UpdateSearchIndex: one is there already",
        "=> the same job: True",
        "=> the chain went on",
        "=> another time: tea",
        "=> 1 then 4",
        "=> None None 'offer 12 costs 12'",
    ],
}


def runnable() -> set[str]:
    return {path.stem for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}


def test_no_example_is_forgotten() -> None:
    assert runnable() == set(EXPECTED)


@pytest.mark.parametrize("example", sorted(EXPECTED))
def test_the_example_runs_and_says_what_it_should(example: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tasks_examples.{example}"],
        cwd=ROOT,
        env={**os.environ, "EXAMPLES_FOLDER": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    log = tmp_path / example / "worker.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text()[-3000:] if log.exists() else "")
    missing = [line for line in EXPECTED[example] if line not in done.stdout]
    assert not missing, done.stdout
