"""Attempts: jobs that try again, wait, give up, and say so. ``python -m tasks_examples.attempts``."""

from __future__ import annotations

from datetime import timedelta

from celery import Celery

from celery_laravel import Job, ManuallyFailedError, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

app = Celery("tasks_examples.attempts")
install(app)
embedded(app, folder_for("attempts"))


@app.task(bind=True, tries=3, backoff=[0.2, 0.5])
def fetch_price(self: Job, product: str) -> str:
    """Try three times, 0.2 s after the first failure and 0.5 s after the second."""
    print(f"fetch_price({product!r}): attempt {self.attempts}")
    if self.attempts < 3:
        msg = "the shop did not answer"
        raise ConnectionError(msg)
    return f"{product} costs 42"


@app.task(bind=True, tries=10)
def send_when_ready(self: Job, report: str) -> str | None:
    """Go back to the queue, without an exception, until the report is ready."""
    if self.attempts < 3:
        print(f"send_when_ready({report!r}): not ready, back to the queue for 0.3 s")
        self.release(timedelta(seconds=0.3))
        return None
    return f"{report} sent on attempt {self.attempts}"


def tell_support(job: Job, error: BaseException, card: str) -> None:
    """The ``failed`` hook: called once, when the job fails for good."""
    print(f"{job.name.rpartition('.')[2]}({card!r}) failed for good: {error}")


@app.task(bind=True, tries=5, failed=tell_support)
def charge(self: Job, card: str) -> None:
    """Fail at once where another attempt would not help."""
    if card == "stolen":
        self.fail("the bank refuses this card")
        return
    print(f"charged {card}")


@app.task(bind=True, backoff=0.1, max_exceptions=2, retry_until=timedelta(minutes=10))
def poll(self: Job, url: str) -> None:
    """For ten minutes, however often that is, but no more than two exceptions."""
    print(f"poll({url!r}): attempt {self.attempts}")
    msg = "no route to host"
    raise OSError(msg)


def main() -> None:
    with local_worker(app):
        price, sent = fetch_price.delay("tea"), send_when_ready.delay("report.pdf")
        refused, lost = charge.delay("stolen"), poll.delay("https://example.org")
        print("=>", price.get(timeout=30))
        print("=>", sent.get(timeout=30))
        for result in (refused, lost):
            error = result.get(timeout=30, propagate=False)
            assert isinstance(error, (ManuallyFailedError, OSError))
            print(f"=> {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
