"""A process that works in a store, for tests: ``sql_worker.py end|use|fork|migrate URL PREFIX …`` answers in JSON."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta

from sqlalchemy import text

from celery_laravel.stores.records import AttemptEnd, MemberEnd, MemberState
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore

HOUR = timedelta(hours=1)


def end(store: SQLAlchemyStore, batch_id: str, first: str, last: str) -> object:
    """End members of a batch, each with its attempt."""
    pending, due = [], []
    for index in range(int(first), int(last)):
        job_id = f"{batch_id}-{index}"
        store.attempts.begin(job_id, turn=0, attempts=0, exceptions=0, owner="w", lease=HOUR, keep=HOUR)
        member = MemberEnd(batch_id, index, job_id, MemberState.SUCCEEDED)
        change = store.settle(member=member, attempt=AttemptEnd(job_id, 0, is_final=True, attempts=1), keep=HOUR)
        assert change is not None
        assert change.changed
        pending.append(change.batch.pending_jobs)
        due += [callback.kind for callback in change.due]
    return {"pending": pending, "due": due}


def use(store: SQLAlchemyStore, job_id: str) -> object:
    """Use the store for the first time in this process."""
    return store.attempts.begin(job_id, turn=0, attempts=0, exceptions=0, owner="w", lease=HOUR, keep=HOUR).attempt


def migrate(store: SQLAlchemyStore) -> object:
    """Make the tables."""
    store.migrate()
    return store.pending_migrations()


def fork(store: SQLAlchemyStore) -> object:
    """Fork when the store has been used; each uses it, the parent again when the child is gone."""
    before = session(store)
    store.failed_jobs.count()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer = {"session": session(store), "count": store.failed_jobs.count()}
        os.write(writer, json.dumps(answer).encode())
        sys.exit(0)
    os.waitpid(child, 0)
    return {"before": before, "child": json.loads(os.read(reader, 10_000)), "after": session(store)}


def session(store: SQLAlchemyStore) -> int:
    """The server's number of the connection; with SQLite, this library's."""
    query = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
    with store._database._engine().connect() as connection:
        asked = query.get(store._database.dialect.name)
        return (
            id(connection.connection.dbapi_connection)
            if asked is None
            else connection.execute(text(asked)).scalar_one()
        )


if __name__ == "__main__":
    command, url, prefix, *arguments = sys.argv[1:]
    opened = SQLAlchemyStore(url, prefix)
    json.dump(globals()[command](opened, *arguments), sys.stdout)
    opened.close()
