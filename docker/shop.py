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


@app.task(bind=True, name="shop.fetch_price", tries=10, backoff=[0.1, 0.5])
def fetch_price(self, product: int) -> int | None:
    """Ask a supplier that answers three times of four, and that does not have every product."""
    time.sleep(0.1)
    if random.random() < 0.25:
        msg = f"no answer about product {product}"
        raise ConnectionError(msg)
    if product % 50 == 0:
        self.fail(f"nobody sells product {product}")  # asking again would not help
        return None
    return product * 100


@app.task(name="shop.report")
def report(batch) -> None:
    """Say what came of the batch, in the worker's log."""
    print(f"{batch.name}: {batch.processed_jobs - batch.failed_jobs} prices, {batch.failed_jobs} failed jobs")


def main() -> int:
    """Dispatch a batch, and print its progress until it has finished."""
    prices = Bus(app).batch(fetch_price.s(product) for product in range(1, 101))
    batch = prices.name("Prices").allow_failures().finally_(report.s()).dispatch()
    for batch in batch.watch():  # noqa: B020 - the newest snapshot is the batch
        print(f"{batch.progress:3d} %, {batch.failed_jobs} failed", flush=True)
    if batch.has_failures:
        print("Show them, and try again: celery -A shop laravel failed; celery -A shop laravel retry all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
