"""Timeouts: an attempt may take so long, and no longer. ``python -m tasks_examples.timeouts``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery import Celery

from celery_laravel import Job, JobTimedOutError, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

if TYPE_CHECKING:
    from celery.result import AsyncResult

app = Celery("tasks_examples.timeouts")
install(app)
embedded(app, folder_for("timeouts"))


@app.task(bind=True, tries=2, timeout=1)
def ask_slow_server(self: Job, question: str) -> str:
    """A timeout is an exception like any other: the job is tried again."""
    print(f"ask_slow_server: attempt {self.attempts}")
    if self.attempts == 1:
        time.sleep(30)
    return f"the answer to {question!r}"


@app.task(tries=5, timeout=1, fail_on_timeout=True)
def render(scene: str) -> None:
    """Trying again would take just as long: fail at once."""
    print(f"render({scene!r})")
    time.sleep(30)


def main() -> None:
    with local_worker(app):
        answer: AsyncResult[str] = ask_slow_server.delay("why?")
        film: AsyncResult[None] = render.delay("sunset")
        print("=>", answer.get(timeout=30))
        error = film.get(timeout=30, propagate=False)
        assert isinstance(error, JobTimedOutError)
        print("=>", error)


if __name__ == "__main__":
    main()
