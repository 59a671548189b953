"""A batch as a step of a chain, and callbacks for each job. ``python -m tasks_examples.batches_in_chains``."""

from __future__ import annotations

from celery import Celery

from celery_laravel import Batch, Bus, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

app = Celery("tasks_examples.batches_in_chains")
install(app)
embedded(app, folder_for("batches_in_chains"))


@app.task(tries=2)
def fetch(album: str) -> None:
    print(f"fetch: {album}")


@app.task(tries=2)
def encode(track: str) -> None:
    if track == "noise":
        msg = "nothing but noise"
        raise ValueError(msg)
    print(f"encode: {track}")


@app.task(tries=2)
def publish(batch: Batch, album: str) -> str:
    """The step after a batch is given the batch, if it asks for a result (``.s``)."""
    return f"{album}: {batch.total_jobs - batch.failed_jobs} of {batch.total_jobs} tracks published"


@app.task
def begun(batch: Batch) -> None:
    print(f"before: {batch.name!r}")


@app.task
def one_more(batch: Batch) -> None:
    print(f"progress: {batch.name!r}")


@app.task
def left_out(batch: Batch, error: Exception) -> None:
    print(f"left out of {batch.name!r}: {error}")


@app.task
def alert(error: Exception) -> None:
    print(f"catch: {error}")


def main() -> None:
    with local_worker(app):
        tracks = Bus.batch([encode.si("birds"), encode.si("noise"), encode.si("stars")]).name("Summer")
        tracks.before(begun.s()).progress(one_more.s()).allow_failures(left_out.s())
        summer = Bus.chain([fetch.si("Summer"), tracks, publish.s("Summer")]).dispatch()
        print(f"=> {summer.get(timeout=60)}")

        # Without allow_failures, a failed job fails the batch, and the batch the chain.
        strict = Bus.batch([encode.si("noise")]).name("Winter")
        winter = Bus.chain([fetch.si("Winter"), strict, publish.s("Winter")]).catch(alert.s()).dispatch()
        try:
            winter.parent.get(timeout=60)
        except ValueError as error:
            print(f"=> Winter is not published: {error}")
        wait_for_the_last_callback()


def wait_for_the_last_callback() -> None:
    """There is one worker process, and it takes jobs in order."""
    fetch.delay("nothing more").get(timeout=60)


if __name__ == "__main__":
    main()
