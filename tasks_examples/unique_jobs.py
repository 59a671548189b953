"""Unique and debounced jobs: of many dispatches one runs. ``python -m tasks_examples.unique_jobs``."""

from __future__ import annotations

import time
from typing import Any

from celery import Celery, chain

from celery_laravel import Job, ShouldBeUnique, embedded, install, signals
from tasks_examples.local_worker import folder_for, local_worker

app = Celery("tasks_examples.unique_jobs")
install(app)
embedded(app, folder_for("unique_jobs"))


class UpdateSearchIndex(Job, ShouldBeUnique):
    """One for each product, queued or running."""

    tries = 3

    def unique_id(self, product: dict[str, Any]) -> Any:
        return product["id"]

    def run(self, product: dict[str, Any]) -> str:
        print(f"index of {product['name']} rebuilt", flush=True)
        return str(product["name"])


update_search_index = app.register_task(UpdateSearchIndex())


@app.task(unique="latest", unique_id="shop", track_started=True)
def publish(shop: str, revision: int) -> int:
    """One runs, one waits, and the one that waits has the newest revision."""
    print(f"publishing revision {revision} of {shop}", flush=True)
    time.sleep(2)
    return revision


@app.task(debounce_for=1, unique_id="offer")
def recalculate(offer: str, price: int) -> str:
    """A second after the last change, and not before."""
    print(f"{offer} recalculated with {price}", flush=True)
    return f"{offer} costs {price}"


@app.task
def say(what: str) -> str:
    """Say something."""
    return what


@signals.unique_job_skipped.connect
def note_skipped(sender: Any, holder_id: str, **_: Any) -> None:
    """Tell of what was not dispatched; in the process that dispatches."""
    print(f"{sender.name.rpartition('.')[2]}: one is there already")


def main() -> None:
    tea = {"id": 7, "name": "tea"}
    with local_worker(app):
        first = update_search_index.apply_async((tea,), countdown=1)
        second = update_search_index.delay({**tea, "name": "green tea"})
        print("=> the same job:", second.suppressed and second.id == first.id)
        chained = chain(update_search_index.si(tea), say.si("the chain went on")).apply_async()
        print("=>", chained.get(timeout=30))
        print("=>", first.get(timeout=30))
        print("=> another time:", update_search_index.delay(tea).get(timeout=30))

        running = publish.delay("corner shop", 1)
        while running.state != "STARTED":
            time.sleep(0.05)
        waiting = [publish.delay("corner shop", revision) for revision in (2, 3, 4)]
        print("=>", running.get(timeout=30), "then", waiting[0].get(timeout=30))

        changes = [recalculate.delay("offer 12", price) for price in (10, 11, 12)]
        print("=>", *(repr(change.get(timeout=30)) for change in changes))


if __name__ == "__main__":
    main()
