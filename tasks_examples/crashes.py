"""Crashes: a job that kills its worker still comes to an end. ``python -m tasks_examples.crashes``.

It takes some seconds: that is how long Celery waits before it takes a child for lost."""

from __future__ import annotations

import os
import signal

from celery import Celery

from celery_laravel import Bus, Job, MaxAttemptsExceededError, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

app = Celery("tasks_examples.crashes")
install(app)
embedded(app, folder_for("crashes"))


@app.task(bind=True, tries=2)
def decode(self: Job, video: str) -> str:
    """What a codec does that corrupts its memory, or a machine that runs out of it: the process is gone."""
    print(f"decode({video!r}): attempt {self.attempts}")
    if video == "broken.avi" or self.attempts == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{video} decoded on attempt {self.attempts}"


def main() -> None:
    with local_worker(app):
        fine, broken = decode.delay("fine.avi"), decode.delay("broken.avi")
        print("=>", fine.get(timeout=60))
        error = broken.get(timeout=60, propagate=False)
        assert isinstance(error, MaxAttemptsExceededError)
        print("=>", error)
        print(f"=> {Bus.failed.count()} failed job kept")


if __name__ == "__main__":
    main()
