"""The app and its one task: a picture is made smaller, which takes a moment, and goes wrong now and then."""

from __future__ import annotations

import time

from celery import Celery

from celery_laravel import Job, SkipIfBatchCancelled, embedded, install
from tasks_examples.local_worker import folder_for

FOLDER = folder_for("pictures")
DAMAGED_EVERY = 16

app = Celery("tasks_examples.progress_page.pictures")
install(app)
embedded(app, FOLDER)


@app.task(bind=True, tries=1, middleware=[SkipIfBatchCancelled()])
def resize(self: Job, number: int, seconds: float) -> None:
    time.sleep(seconds)
    if number % DAMAGED_EVERY == DAMAGED_EVERY - 1 and self.batch is not None:
        opened = FOLDER / f"{self.batch.id}-{number}"
        if not opened.exists():  # damaged when first opened, and mended by whoever presses "Try again"
            opened.touch()
            raise ValueError(f"picture {number} is damaged")
