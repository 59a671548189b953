"""Chains in batches: steps in order, many times side by side. ``python -m tasks_examples.chains_in_batches``."""

from __future__ import annotations

from celery import Celery

from celery_laravel import Batch, Bus, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

app = Celery("tasks_examples.chains_in_batches")
install(app)
embedded(app, folder_for("chains_in_batches"))


@app.task(tries=2)
def download(podcast: str) -> str:
    if podcast == "gone":
        msg = f"there is no podcast {podcast!r}"
        raise LookupError(msg)
    return f"{podcast}.wav"


@app.task(tries=2)
def encode(source: str) -> str:
    """With ``.s()`` a step receives the result of the one before it, as in any chain of Celery's."""
    return source.replace(".wav", ".mp3")


@app.task(tries=2)
def announce(podcast: str) -> None:
    """With ``.si(…)`` it receives what it was given."""
    print(f"{podcast} is out")


@app.task
def summarise(batch: Batch) -> None:
    succeeded = batch.total_jobs - batch.failed_jobs - batch.skipped_jobs
    print(f"finally: {succeeded} succeeded, {batch.failed_jobs} failed, {batch.skipped_jobs} never ran")


def main() -> None:
    with local_worker(app):
        batch = (
            # Each list is a chain, and each of its steps a job of the batch.
            Bus.batch([[download.s(name), encode.s(), announce.si(name)] for name in ("birds", "gone", "stars")])
            .name("Podcasts")
            .allow_failures()
            .finally_(summarise.s())
            .dispatch()
        )
        done = batch.wait(timeout=60)
        # A callback is a job of its own, sent when the batch has finished; its id is made from the batch's.
        app.AsyncResult(f"{batch.id}:finally:0").get(timeout=30)
        print(f"=> {done.processed_jobs} of {done.total_jobs} accounted for, {done.progress} %")


if __name__ == "__main__":
    main()
