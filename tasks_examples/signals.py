"""Signals: follow every step of a job and a batch. ``python -m tasks_examples.signals``."""

from __future__ import annotations

from typing import Any

from celery import Celery

from celery_laravel import Bus, Job, embedded, install, signals
from tasks_examples.local_worker import folder_for, local_worker

app = Celery("tasks_examples.signals")
install(app)
embedded(app, folder_for("signals"))


@app.task(bind=True, tries=2, backoff=0.1)
def greet(self: Job, name: str) -> str:
    if self.attempts == 1:
        msg = "nobody at the door"
        raise ConnectionError(msg)
    return f"hello {name}"


# Sent where the job is dispatched.
@signals.job_queued.connect
def on_queued(sender: Job, task_id: str, queue: str | None = None, **_: Any) -> None:
    print(f"job_queued: {short(sender)}")


# Sent in the worker.
@signals.job_processing.connect
def on_processing(sender: Job, task_id: str, args: Any, **_: Any) -> None:
    print(f"job_processing: {short(sender)}{tuple(args)}, attempt {sender.attempts}")


@signals.job_exception_occurred.connect
def on_exception(sender: Job, exception: BaseException, **_: Any) -> None:
    print(f"job_exception_occurred: {exception}")


@signals.job_released.connect
def on_released(sender: Job, delay: float, **_: Any) -> None:
    print(f"job_released: again in {delay:g} s")


@signals.job_processed.connect
def on_processed(sender: Job, **_: Any) -> None:
    print(f"job_processed: {short(sender)}")
    msg = "a receiver that raises"
    raise RuntimeError(msg)  # logged; the job's outcome stands


@signals.batch_finished.connect
def on_batch_finished(sender: Celery, batch: Any, **_: Any) -> None:
    print(f"batch_finished: {batch.name}, {batch.total_jobs} job")


def short(job: Job) -> str:
    return str(job.name.rpartition(".")[2])


def main() -> None:
    with local_worker(app):
        batch = Bus.batch([greet.s("Ada")]).name("Greetings").dispatch()
        print(f"=> {batch.wait(timeout=60).progress} %")


if __name__ == "__main__":
    main()
