"""Closures: functions that travel to a worker as jobs. ``python -m tasks_examples.closures``."""

from __future__ import annotations

from celery import Celery

from celery_laravel import Bus, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

app = Celery("tasks_examples.closures")
install(app)
embedded(app, folder_for("closures"))
app.conf.laravel_secret_key = "an example needs no secret; an app does"


@app.task
def resize(picture: int) -> int:
    return picture


@app.task
def alert(error: Exception) -> None:
    print(f"alert: {error}")


def total(prices: list[int]) -> int:
    if not prices:
        msg = "an order without prices"
        raise ValueError(msg)
    return sum(prices)


def main() -> None:
    prices = [20, 22]
    with local_worker(app):
        print(f"=> {Bus(app).closure(lambda: total(prices)).name('total').dispatch().get(timeout=30)}")

        failing = Bus(app).closure(lambda: total([])).catch(alert.s()).dispatch()
        print(f"=> {failing.get(timeout=30, propagate=False)!r}")

        batch = (
            Bus(app)
            .batch([resize.s(1), [resize.si(2), lambda: print("resized and published")]])
            .then(lambda batch: print(f"then: {batch.total_jobs} jobs done"))
            .dispatch()
        )
        app.AsyncResult(f"{batch.id}:then:0").get(timeout=30)
        print(f"=> finished: {batch.fresh().finished}")


if __name__ == "__main__":
    main()
