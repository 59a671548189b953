"""Middleware: code around an attempt, as functions and as classes. ``python -m tasks_examples.middleware``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery import Celery

from celery_laravel import FailOnException, Job, Skip, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

if TYPE_CHECKING:
    from collections.abc import Callable

app = Celery("tasks_examples.middleware")
install(app)
embedded(app, folder_for("middleware"))


def measured(job: Job, next: Callable[[Job], Any]) -> Any:
    """Go on, and do something with what came of it."""
    started = time.perf_counter()
    try:
        return next(job)
    finally:
        took = time.perf_counter() - started
        print(f"{job.name.rpartition('.')[2]}{tuple(job.arguments.values())}: {'fast' if took < 5 else 'slow'}")


class OnlyInCountries:
    """End the attempt without running the code: the job counts as done."""

    def __init__(self, *countries: str) -> None:
        self.countries = countries

    def __call__(self, job: Job, next: Callable[[Job], Any]) -> Any:
        if job.arguments["country"] in self.countries:
            return next(job)
        print(f"nothing is sent to {job.arguments['country']}")
        return None


class Patiently:
    """Put the job off when the service is down; any other exception is the attempt's own."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def __call__(self, job: Job, next: Callable[[Job], Any]) -> Any:
        try:
            return next(job)
        except ConnectionRefusedError:
            print(f"attempt {job.attempts}: the service is down, again in {self.delay:g} s")
            job.release(self.delay)
            return None


@app.task(bind=True, tries=5, middleware=[measured, OnlyInCountries("NZ", "IS"), Patiently(0.2)])
def send_parcel(self: Job, order: int, country: str) -> str:
    """The first of the list is outermost."""
    if self.attempts == 1:
        raise ConnectionRefusedError
    return f"order {order} sent to {country} on attempt {self.attempts}"


class SendLetter(Job):
    """Middleware that depends on the arguments: a method that returns the list."""

    def middleware(self, order: int, country: str) -> list[Any]:
        return [measured] if country == "NZ" else [measured, OnlyInCountries("IS")]

    def run(self, order: int, country: str) -> str:
        return f"letter about order {order} sent to {country}"


send_letter = app.register_task(SendLetter())


@app.task(tries=5, middleware=[Skip.when(lambda job: job.arguments["weight"] == 0), FailOnException(ValueError)])
def weigh(weight: int) -> str:
    """Two of those that come with the library: nothing to do for an empty parcel, no second attempt for a wrong one."""
    print(f"weigh({weight})")
    if weight < 0:
        msg = "no parcel is lighter than nothing"
        raise ValueError(msg)
    return f"{weight} g"


def main() -> None:
    with local_worker(app):
        results = [
            send_parcel.delay(1, country="NZ"),
            send_parcel.delay(2, country="DE"),
            send_letter.delay(3, country="NZ"),
        ]
        for result in results:
            print("=>", result.get(timeout=30))
        weighed = [weigh.delay(weight) for weight in (0, 250, -1)]
        print("=>", *(repr(result.get(timeout=30, propagate=False)) for result in weighed))


if __name__ == "__main__":
    main()
