"""A service that is down: jobs are kept away from it until it is back. ``python -m tasks_examples.throttled``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from celery import Celery

from celery_laravel import Job, ThrottlesExceptions, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

if TYPE_CHECKING:
    from pathlib import Path

app = Celery("tasks_examples.throttled")
install(app)
embedded(app, folder_for("throttled"))


def calls() -> Path:
    """What the partner has seen."""
    return folder_for("throttled") / "calls.txt"


@app.task(
    bind=True,
    retry_until=timedelta(minutes=5),
    middleware=[
        ThrottlesExceptions(2, decay=1, backoff=0.1, when=ConnectionError, fail_when=PermissionError),
    ],
)
def sync_order(self: Job, order: int) -> str:
    """Raise twice: the count is full, and no job of this task runs until the window is over."""
    with calls().open("a+") as log:
        log.write(f"{order}\n")
        log.seek(0)
        seen = len(log.readlines())
    if seen <= 2:
        print(f"call {seen}: the partner does not answer")
        raise ConnectionError
    print(f"call {seen}: the partner is back")
    return f"order {order} is synchronised"


@app.task(tries=5, middleware=[ThrottlesExceptions(2, by="login", fail_when=PermissionError)])
def log_in(password: str) -> None:
    """Some failures are no matter of waiting."""
    raise PermissionError(f"wrong password {password!r}")


def main() -> None:
    calls().write_text("")
    with local_worker(app, "--concurrency", "1"):
        orders = [sync_order.delay(order) for order in (1, 2)]
        for order in orders:
            print("=>", order.get(timeout=60))
        print("=>", repr(log_in.delay("1234").get(timeout=30, propagate=False)))


if __name__ == "__main__":
    main()
