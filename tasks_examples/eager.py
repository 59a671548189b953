"""Without a worker: jobs in your own process, for tests and for trying out. ``python -m tasks_examples.eager``."""

from __future__ import annotations

from celery import Celery

from celery_laravel import Batch, Bus, Job, JobReleasedError, install

app = Celery("tasks_examples.eager", broker="memory://", backend="cache+memory://")
app.conf.update(laravel_store="memory://", task_always_eager=True)
install(app)


@app.task(bind=True, tries=3, backoff=60)
def fetch_price(self: Job, product: str) -> str:
    if self.attempts < 3:
        msg = "the shop did not answer"
        raise ConnectionError(msg)
    return f"{product} costs 42, said on attempt {self.attempts}"


@app.task(bind=True)
def send_when_ready(self: Job, report: str) -> None:
    self.release(30)


@app.task
def report(batch: Batch) -> None:
    print(f"then: {batch.progress} % of {batch.name!r}")


def main() -> None:
    # task_always_eager: every attempt runs at once, and the delays between them are left out.
    print("=>", fetch_price.delay("tea").get())

    # Dispatched only if a condition holds.
    print("=>", fetch_price.delay_if(False, "coffee"))

    # A batch runs while it is dispatched; its callbacks too.
    batch = Bus.batch([fetch_price.s("tea"), fetch_price.s("milk")]).name("Prices").then(report.s()).dispatch()
    print(f"=> finished: {batch.fresh() is not None and batch.finished}")

    # dispatch_sync runs one attempt here and now, with or without a worker, and raises what the job raises.
    try:
        fetch_price.dispatch_sync("tea")
    except ConnectionError as error:
        print("=>", error)
    try:
        send_when_ready.dispatch_sync("report.pdf")
    except JobReleasedError as error:
        print("=>", error)


if __name__ == "__main__":
    main()
