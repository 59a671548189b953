"""Packs: very many very small jobs, a hundred to a message. ``python -m tasks_examples.packs``."""

from __future__ import annotations

from celery import Celery

from celery_laravel import Batch, Bus, Job, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

app = Celery("tasks_examples.packs")
install(app)
embedded(app, folder_for("packs"))


@app.task(bind=True)
def check_word(self: Job, number: int) -> None:
    """A job like any other: it has its own id and attempts, and what it says holds for it alone."""
    if number == 7 and self.attempts == 1:
        print(f"word {number} is released, and goes on in a message of its own")
        self.release()
    if number == 13:
        self.fail(f"word {number} is misspelt")


@app.task
def report(batch: Batch) -> None:
    print(f"finally: {batch.processed_jobs} of {batch.total_jobs} processed, {batch.failed_jobs} failed")


def main() -> None:
    with local_worker(app):
        words = (check_word.s(number) for number in range(1000))
        batch = Bus(app).batch(words).pack(100).allow_failures().finally_(report.s()).dispatch()
        batch = batch.wait(timeout=60)
        app.AsyncResult(f"{batch.id}:finally:0").get(timeout=30)
        (failed,) = batch.failed_job_ids
        record = Bus(app).failed.find(failed)
        assert record is not None
        print(f"=> {batch.total_jobs} jobs, failed: {record.exception}")


if __name__ == "__main__":
    main()
