"""The app of scripted jobs, in whose processes the store goes away for a moment at a certain call.

`JOBS_AWAY` says at which, as ``POINT NTH`` (`celery_laravel.testing.faults`). A
batch's jobs are taken in slices of `SLICE`.
"""

from __future__ import annotations

import os
import time
from typing import Any

from celery_laravel import StoreUnavailableError
from celery_laravel.dispatch import members
from celery_laravel.testing.faults import put_points
from tests.support.jobs_app import app

SLICE = 2
SECONDS = 2.0
"""For so long every call of the store fails, once that point has been come to."""


class Away:
    def __init__(self, point: str, nth: int) -> None:
        self.point, self.nth = point, nth
        self.seen, self.until = 0, 0.0

    def __call__(self, point: str) -> None:
        self.seen += point == self.point
        if point == self.point and self.seen == self.nth:
            self.until = time.monotonic() + SECONDS
        if point.endswith(":before") and not point.startswith("publish") and time.monotonic() < self.until:
            raise StoreUnavailableError("test://away")


@app.task(name="adds", bind=True, shared=False)
def adds(self: Any, key: str, count: int) -> None:
    """Add so many jobs to its batch, which write under the key."""
    self.batch.add(app.tasks["plain"].si(key, ["return:added"]) for _ in range(count))


members.SLICE = SLICE
_point, _, _nth = os.environ["JOBS_AWAY"].partition(" ")
put_points(app, Away(_point, int(_nth)))
