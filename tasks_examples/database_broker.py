"""The queue in your database: ``python -m tasks_examples.database_broker``.

Without more it is SQLite. For a server, say which database it may use:
``EXAMPLES_DATABASE=postgresql+psycopg://me@localhost/examples`` or
``EXAMPLES_DATABASE=mysql+pymysql://me@localhost/examples``.
"""

from __future__ import annotations

import os

import sqlalchemy as sa
from celery import Celery

from celery_laravel import install
from celery_laravel.transport.database.migrating import brokers_to_migrate, migrate
from tasks_examples.local_worker import folder_for, local_worker

FOLDER = folder_for("database_broker")
FOLDER.mkdir(parents=True, exist_ok=True)
DATABASE = os.environ.get("EXAMPLES_DATABASE") or f"sqlite:///{FOLDER / 'broker.db'}"
PREFIX = "celery_example_"

app = Celery("tasks_examples.database_broker", broker=f"database+{DATABASE}")
app.conf.update(broker_transport_options={"table_prefix": PREFIX}, laravel_store=f"sqlite:///{FOLDER / 'store.db'}")
install(app)


@app.task
def deliver(parcel: str) -> None:
    print(f"{parcel} delivered")


def messages() -> list[tuple[str, int]]:
    """What waits, straight from the table."""
    engine = sa.create_engine(DATABASE)
    with engine.connect() as connection:
        query = f"SELECT queue, count(*) FROM {PREFIX}messages WHERE queue = 'parcels' GROUP BY queue"
        found = [tuple(row) for row in connection.execute(sa.text(query))]
    engine.dispose()
    return found


def main() -> None:
    # What `celery -A tasks_examples.database_broker laravel migrate` does; SQLite needs none of it.
    for options in brokers_to_migrate([app.conf.broker_url], app.conf.broker_transport_options).values():
        migrate(options)

    with local_worker(app, "--hostname", "example@localhost", "--queues", "other"):
        inspect = app.control.inspect(["example@localhost"], timeout=2, limit=1)
        while not (answer := inspect.ping()):
            pass  # it is still starting, and hears what is said from then on
        print("=> the worker answers:", answer["example@localhost"])
        for parcel, priority in (("a book", 0), ("a letter", 9)):
            deliver.apply_async((parcel,), queue="parcels", priority=priority)
        print("=> in the table:", messages())
        app.control.add_consumer("parcels", destination=["example@localhost"], reply=True, timeout=10, limit=1)
        while messages():
            inspect.ping()
    print("=> in the table:", messages())


if __name__ == "__main__":
    main()
