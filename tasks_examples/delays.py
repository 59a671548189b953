"""Delays that wait in the store: seen, called off, kept while no worker runs. ``python -m tasks_examples.delays``.

The database broker of the other examples keeps delays itself, so this one's is
in memory, and its worker in a thread of this process.
"""

from __future__ import annotations

import logging

from celery import Celery
from celery.contrib.testing.worker import start_worker

from celery_laravel import Bus, Job, embedded, install
from tasks_examples.local_worker import folder_for

FOLDER = folder_for("delays")

app = Celery("tasks_examples.delays")
install(app)
embedded(app, FOLDER)
app.conf.update(broker_url="memory://", laravel_durable_delay=1)  # seconds; a minute, unless set otherwise


@app.task
def remind(user: str) -> str:
    return f"{user} reminded"


@app.task(bind=True, tries=3, backoff=1.5)
def synchronise(self: Job) -> str:
    """Fail at first: the wait before the next attempt is a delay like any other."""
    if self.attempts == 1:
        raise ConnectionError("try again")
    return f"synchronised on attempt {self.attempts}"


def main() -> None:
    logging.getLogger("celery").setLevel(logging.CRITICAL)  # the worker's log would come in between
    for leftover in FOLDER.glob("*.db*"):
        leftover.unlink()

    for user in ("Ada", "Grace"):
        remind.apply_async((user,), countdown=2)
    report = remind.apply_async(("the board",), countdown=7 * 24 * 3600)
    print("=> waiting:", *(f"{job.task.rpartition('.')[2]}{job.args_repr}" for job in Bus(app).delayed.all()))
    print("=> called off:", Bus(app).delayed.cancel(report.id))

    with start_worker(app, perform_ping_check=False, shutdown_timeout=30):
        ada = remind.apply_async(("Ada again",), countdown=1.5)
        print("=>", ada.get(timeout=30))
        print("=>", synchronise.delay().get(timeout=30))
        print("=> the board's reminder:", report.state)
    print("=> waiting:", Bus(app).delayed.count())


if __name__ == "__main__":
    main()
