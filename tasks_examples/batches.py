"""Batches: many jobs, counted, with callbacks. ``python -m tasks_examples.batches``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import Celery

from celery_laravel import Batch, Bus, Job, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery.canvas import Signature

app = Celery("tasks_examples.batches")
install(app)
embedded(app, folder_for("batches"))


@app.task(tries=2)
def resize(image: int) -> None:
    """Pictures 13 and 27 are damaged."""
    if image in {13, 27}:
        msg = f"picture {image} is damaged"
        raise ValueError(msg)


@app.task(bind=True, tries=3)
def list_album(self: Job, album: str) -> None:
    """A job of a batch may add jobs to it: it keeps the batch from finishing while it runs."""
    assert self.batch is not None
    self.batch.add(resize.s(image) for image in range(100, 110))
    print(f"album {album!r}: 10 pictures added")


@app.task(bind=True)
def send_invitation(self: Job, guest: int) -> None:
    """Nothing is stopped by force: a job asks whether its batch goes on."""
    if self.batch is not None and self.batch.cancelled:
        return
    if guest == 1:
        self.fail("the party is off")


@app.task
def publish(batch: Batch) -> None:
    print(f"then: all {batch.total_jobs} jobs of {batch.name!r} succeeded")


@app.task
def alert(batch: Batch, error: Exception) -> None:
    print(f"catch: the first failure of {batch.name!r}: {error}")


@app.task
def report(batch: Batch, where: str) -> None:
    kind = "cancelled" if batch.cancelled else "complete"
    print(f"finally: {batch.name!r} is {kind}, {batch.failed_jobs} failed; report in {where}")


def pictures() -> Iterator[Signature]:
    """Any iterable will do: a generator is never held as a whole."""
    yield list_album.s("summer")
    for image in range(1, 31):
        yield resize.s(image)


def main() -> None:
    with local_worker(app):
        batch = (
            Bus.batch(pictures())
            .name("Pictures")
            .allow_failures()
            .then(publish.s())
            .catch(alert.s())
            .finally_(report.s("pictures.txt"))
            .dispatch()
        )
        for done in batch.watch():  # a snapshot whenever something has changed; the last one is finished
            if done.finished or done.progress == 0:
                print(f"{done.progress:3d} %")
        print(f"=> {done.total_jobs} jobs, {done.failed_jobs} failed, cancelled: {done.cancelled}")

        clean = Bus.batch([resize.s(image) for image in (1, 2, 3)]).name("Three").then(publish.s()).dispatch()
        print(f"=> {clean.wait(timeout=60).progress} %")

        # Without allow_failures, the first failure cancels the batch.
        party = Bus.batch(send_invitation.s(guest) for guest in range(1, 9)).name("Party").catch(alert.s())
        off = party.finally_(report.s("party.txt")).dispatch().wait(timeout=60)
        # A callback is a job of its own, sent when the batch has finished; its id is made from the batch's.
        app.AsyncResult(f"{off.id}:finally:0").get(timeout=30)
        print(f"=> cancelled: {off.cancelled}, {off.failed_jobs} of {off.total_jobs} failed")


if __name__ == "__main__":
    main()
