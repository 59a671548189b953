"""Locks: one job per account at a time, and who holds what. ``python -m tasks_examples.locks``."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from celery import Celery

from celery_laravel import Bus, Job, WithoutOverlapping, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

if TYPE_CHECKING:
    from pathlib import Path

app = Celery("tasks_examples.locks")
install(app)
embedded(app, folder_for("locks"))


def balance_of(account: int) -> Path:
    return folder_for("locks") / f"account-{account}.txt"


@app.task(tries=0, middleware=[WithoutOverlapping(by="account", release_after=0.1)])
def post_entry(account: int, amount: int) -> None:
    """Read, think, write: two of these at once on one account would lose an entry."""
    balance = int(balance_of(account).read_text())
    time.sleep(0.1)
    balance_of(account).write_text(str(balance + amount))


@app.task(bind=True, tries=3, middleware=[WithoutOverlapping(by="account", release_after=0.1)])
def close_account(self: Job, account: int) -> str:
    """Lose the process while it holds the lock: the worker frees it, and the next attempt takes it."""
    (lock,) = Bus.locks.all()
    print(f"attempt {self.attempts} holds {lock.key}, a lock of kind {lock.kind}")
    if self.attempts == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"account {account} closed on attempt {self.attempts}"


@app.task(middleware=[WithoutOverlapping(release=False)])
def refresh_rates() -> str:
    """One is as good as two: while one runs, others are skipped."""
    refresh_rates.dispatch_sync()
    return "rates refreshed once"


def main() -> None:
    for account in (1, 2):
        balance_of(account).write_text("0")
    with local_worker(app):
        entries = [post_entry.delay(account, amount) for amount in (1, 2, 3, 4) for account in (1, 2)]
        for entry in entries:
            entry.get(timeout=60)
        print("=> balances:", *(balance_of(account).read_text() for account in (1, 2)))
        print("=>", refresh_rates.delay().get(timeout=30))
        print("=>", close_account.delay(2).get(timeout=60))
        print("=> locks held:", len(Bus.locks.all()))


if __name__ == "__main__":
    main()
