"""Failed jobs: found, looked at, and run again once the cause is mended. ``python -m tasks_examples.failed_jobs``."""

from __future__ import annotations

from pathlib import Path

from celery import Celery

from celery_laravel import Bus, embedded, install
from tasks_examples.local_worker import folder_for, local_worker

FOLDER = folder_for("failed_jobs")
PRICES = FOLDER / "prices.txt"

app = Celery("tasks_examples.failed_jobs")
install(app)
embedded(app, FOLDER)


@app.task(tries=2)
def import_prices(path: str) -> int:
    """Fail as long as the file is missing."""
    return len(Path(path).read_text(encoding="utf-8").split())


def main() -> None:
    PRICES.unlink(missing_ok=True)
    with local_worker(app):
        result = import_prices.delay(str(PRICES))
        result.get(timeout=30, propagate=False)

        (job,) = Bus.failed.all()
        print(f"=> {job.task.rpartition('.')[2]} failed after {job.attempts} attempts")
        print(f"   {job.exception.partition(':')[0]}, called with {job.args_repr.rpartition('/')[2]}")

        PRICES.write_text("42 17 8", encoding="utf-8")
        result.forget()  # else the result backend says FAILURE until the new attempt has ended
        print(f"=> {Bus.failed.retry(job.id)} sent again, under the same id, from attempt 1")
        print(f"=> {result.get(timeout=30)} prices imported, {Bus.failed.count()} failed jobs left")


if __name__ == "__main__":
    main()
