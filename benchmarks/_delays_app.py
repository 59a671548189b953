"""The app whose worker's memory is measured while jobs are delayed: one plain task."""

from __future__ import annotations

import os

from celery import Celery

from celery_laravel import install

app = Celery("bench", broker=os.environ["BENCH_BROKER"], set_as_current=False)
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)
app.conf.laravel_durable_delay = 60 if os.environ["BENCH_PARKS"] == "1" else None
install(app)


@app.task
def noop(number: int) -> None:
    """Do nothing."""
