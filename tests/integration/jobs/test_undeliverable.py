"""Messages that a worker cannot take: whoever waits for their jobs is told, once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid
from kombu.serialization import codec, registry

from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import Lab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]


@pytest.fixture(autouse=True)
def bad_serializers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the workers do not accept, and one whose messages nobody can read."""
    strange = codec("application/x-strange", "utf-8", json.dumps)
    broken = codec("application/json", "utf-8", lambda _: "{")
    for name, made in (("strange", strange), ("broken", broken)):
        monkeypatch.setitem(registry._encoders, name, made)
        monkeypatch.setitem(registry.name_to_type, name, made.content_type)


def bad(lab: Lab, kind: str) -> Any:
    """A signature whose message the worker cannot take."""
    if kind == "unknown":
        return lab.app.signature("nowhere", (1,), immutable=True)
    return lab.sig("bare", "return:x", key=uuid()).set(serializer=kind)


KINDS = {"unknown": "NotRegistered", "strange": "ContentDisallowed", "broken": "DecodeError"}


def test_members_and_steps_that_cannot_be_taken_are_settled_once(lab: Lab) -> None:
    key, tasks = uuid(), lab.app.tasks
    batches = {}
    for kind in KINDS:
        steps = [bad(lab, kind), *[lab.sig("plain", "return:x", key=key)] * 2]
        pending = lab.bus.batch([[bad(lab, kind)], steps, lab.sig("plain", "return:x", key=uuid())]).allow_failures()
        batches[kind] = pending.catch(tasks["note"].s(f"catch {kind}", key)).dispatch()
        chain = lab.bus.chain([bad(lab, kind), lab.sig("plain", "return:x", key=key)])
        chain.catch(tasks["note"].s(f"chain {kind}", key)).dispatch()

    for kind, batch in batches.items():
        ended = batch.wait(timeout=40)
        counts = (ended.total_jobs, ended.failed_jobs, ended.skipped_jobs, ended.pending_jobs)
        assert counts == (5, 2, 2, 0), kind
    notes = lab.wait_for(key, "notes", 2 * len(KINDS))
    assert lab.send("plain", "return:alive")[0].get(timeout=30) == "alive"
    assert sorted(note[-1] for note in notes) == sorted(
        f"'{what} {kind}'" for what in ("catch", "chain") for kind in KINDS
    )
    assert lab.attempts(key) == [], "what was to follow does not run"

    wait_until(lambda: lab.bus.failed.count() == 3 * len(KINDS))
    records = lab.bus.failed.all()
    for kind, name in KINDS.items():
        of_kind = [record for record in records if record.exception.startswith(name)]
        assert len(of_kind) == 3, kind
        assert all(lab.app.AsyncResult(record.id).state == "FAILURE" for record in of_kind), kind
