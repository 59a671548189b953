"""The example of the Compose file: a shop that prices its products in a batch.

The worker runs ``celery -A shop worker``, and ``python -m shop`` dispatches a batch and watches it.
"""

from __future__ import annotations

import os
import random
import sys
import time

from celery import Celery

from celery_laravel import Bus, install

app = Celery("shop", broker=os.environ["BROKER_URL"], backend=os.environ["RESULT_BACKEND"])
app.conf.update(
    laravel_store=os.environ["LARAVEL_STORE"],
    laravel_failed_store=os.environ["LARAVEL_FAILED_STORE"],
    broker_connection_retry_on_startup=True,
    task_default_queue="shop",
)
install(app)


@app.task(bind=True, name="shop.fetch_price", tries=3, backoff=[1, 2])
def fetch_price(self, product: int) -> int:
    """Ask a supplier that does not always answer; three times is enough for most products."""
    time.sleep(0.1)
    if random.random() < 0.3:
        msg = f"no answer about product {product}, attempt {self.attempts}"
        raise ConnectionError(msg)
    return product * 100


@app.task(name="shop.report")
def report(batch) -> None:
    """Say what came of the batch, in the worker's log."""
    print(f"{batch.name}: {batch.processed_jobs - batch.failed_jobs} prices, {batch.failed_jobs} failed jobs")


def main() -> int:
    """Dispatch a batch, and print its progress until it has finished."""
    prices = Bus(app).batch(fetch_price.s(product) for product in range(100))
    batch = prices.name("Prices").allow_failures().finally_(report.s()).dispatch()
    for batch in batch.watch():  # noqa: B020, PLR1704 - the newest snapshot is the batch
        print(f"{batch.progress:3d} %, {batch.failed_jobs} failed", flush=True)
    if batch.has_failures:
        print("Show them, and try again: celery -A shop laravel failed; celery -A shop laravel retry all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
