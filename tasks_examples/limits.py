"""Limits: jobs that start so often, and blocks of code that keep to a limit. ``python -m tasks_examples.limits``."""

from __future__ import annotations

import time

from celery import Celery

from celery_laravel import (
    Job,
    Limit,
    LimitTimeoutError,
    RateLimited,
    RateLimiter,
    embedded,
    funnel,
    install,
    throttle,
)
from tasks_examples.local_worker import folder_for, local_worker

app = Celery("tasks_examples.limits")
install(app)
embedded(app, folder_for("limits"))


@RateLimiter.define("search")
def search(job: Job) -> list[Limit] | Limit:
    """Two a second for everybody, one a second for each customer, and no limit for those who pay."""
    if job.arguments["customer"] == "gold":
        return Limit.none()
    return [Limit.per_second(2), Limit.per_second(1).by(job.arguments["customer"])]


@app.task(bind=True, tries=0, middleware=[RateLimited("search")])
def find(self: Job, customer: str, word: str) -> tuple[str, int, float]:
    """Jobs for which there is no room come back at a start of their own."""
    return word, self.attempts, time.time()


@app.task(bind=True, tries=0)
def locate(self: Job, address: str) -> str:
    """Only a part of this job keeps to a limit."""
    try:
        with throttle("geocoder").allow(1).every(1).block(0.2):
            return f"{address} located on attempt {self.attempts}"
    except LimitTimeoutError as error:
        self.release(error.available_in or 1)
        return ""


@app.task
def report(number: int) -> str:
    """At most one process builds a report at a time; the other waits for its place."""
    with funnel("reports").limit(1).block(10):
        return f"report {number} is built"


def main() -> None:
    with local_worker(app):
        results = [find.delay("ada", word) for word in ("tea", "milk", "salt")]
        results += [find.delay("gold", word) for word in ("ink", "pen", "nib")]
        found = [result.get(timeout=30) for result in results]
        print("=> for ada, each on attempt:", *(attempt for _, attempt, _ in found[:3]))
        print("=> for gold, each on attempt:", *(attempt for _, attempt, _ in found[3:]))
        starts = sorted(at for _, _, at in found[:3])
        print(f"=> ada's three started within {starts[2] - starts[0]:.1f} s")
        located = [locate.delay(address) for address in ("1 Low Road", "2 High Road")]
        for result in located:
            print("=>", result.get(timeout=30))
        for result in [report.delay(number) for number in (1, 2, 3)]:
            print("=>", result.get(timeout=30))
        logins = RateLimiter.for_app(app)
        print("=> logins:", [logins.attempt("ada", Limit.per_minute(2)) for _ in range(3)])


if __name__ == "__main__":
    main()
