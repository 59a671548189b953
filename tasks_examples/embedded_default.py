"""The embedded default: broker, results and store in SQLite files. ``python -m tasks_examples.embedded_default``."""

from __future__ import annotations

import time

from celery import Celery

from celery_laravel import embedded, install
from tasks_examples.local_worker import folder_for, local_worker

FOLDER = folder_for("embedded_default")

app = Celery("tasks_examples.embedded_default")
install(app)
embedded(app, FOLDER)


@app.task
def add(x: int, y: int) -> int:
    return x + y


def main() -> None:
    with local_worker(app, "--hostname", "example@localhost"):
        print("=>", add.delay(2, 3).get(timeout=30))

        started = time.perf_counter()
        add.apply_async((1, 1), countdown=1).get(timeout=30)
        print("=> a countdown waits in the file:", "yes" if time.perf_counter() - started >= 1 else "no")

        inspect = app.control.inspect(["example@localhost"], timeout=5, limit=1)
        print("=> the worker answers:", inspect.ping()["example@localhost"])

        revoked = add.apply_async((7, 7), countdown=60)
        revoked.revoke()
        print("=> revoked:", "example@localhost" in inspect.revoked() and "yes")
    print("=> files:", *sorted(path.name for path in FOLDER.glob("*.db")))


if __name__ == "__main__":
    main()
