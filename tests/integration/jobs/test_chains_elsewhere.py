"""Chains with ``catch``, and batches in them, on other brokers and stores than Redis: worked by a real worker each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import group
from celery.utils import uuid

from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = pytest.mark.redis  # which keeps what the jobs write down

PLACES = [
    pytest.param("rabbitmq", "postgresql", marks=[pytest.mark.rabbitmq, pytest.mark.postgresql]),
    pytest.param("database", "sqlite", id="database-sqlite"),
    pytest.param("database", "mariadb", marks=[pytest.mark.mariadb, pytest.mark.slow]),
]


def caught(lab: Lab, key: str) -> list[str]:
    """What was caught, once nothing more can come: a later job of the same worker has run."""
    lab.wait_for(key, "notes")
    assert lab.send("plain", "return:x")[0].get(timeout=30) == "x"
    return [values[0] for values in lab.written(key, "notes")]


@pytest.mark.parametrize(("broker", "store"), PLACES)
def test_chains_and_the_batches_in_them(make_lab: MakeLab, tmp_path: Path, broker: str, store: str) -> None:
    broker = f"database+sqlite:///{tmp_path}/broker.db" if broker == "database" else broker
    lab = make_lab(broker=broker, store=f"sqlite:///{tmp_path}/store.db" if store == "sqlite" else store)
    store_of(lab.app).migrate()  # type: ignore[attr-defined]  # the tables of SQL stores alone
    with lab.worker():
        check_that_failures_are_caught_once(lab)
        check_that_a_chain_goes_on_after_a_batch(lab)
        check_that_members_are_told_of(lab)


def check_that_failures_are_caught_once(lab: Lab) -> None:
    """An exception, a lost child, a hard limit, and several members of a group."""
    note = lab.app.tasks["note"]
    failures: list[tuple[Any, str]] = [
        (lab.sig("tries3", "raise:no luck", key=uuid()), "OSError('no luck')"),
        (lab.sig("tries1", "die", key=uuid()), "MaxAttemptsExceededError"),
        (lab.sig("tries1", "wait:60", key=uuid()).set(time_limit=1), "TimeLimitExceeded"),
        (group(lab.sig("tries1", "raise:no", key=uuid()) for _ in range(3)), "OSError('no')"),
    ]
    keys = [uuid() for _ in failures]
    for key, (step, _) in zip(keys, failures, strict=True):
        steps = [lab.sig("plain", "return:x", key=uuid()), step, lab.sig("plain", "return:x", key=f"{key}-rest")]
        lab.bus.chain(steps).catch(note.s(key)).dispatch()
    for key, (_, error) in zip(keys, failures, strict=True):
        (value,) = caught(lab, key)
        assert value.startswith(error)
        assert lab.written(f"{key}-rest", "runs") == []


def check_that_a_chain_goes_on_after_a_batch(lab: Lab) -> None:
    key, last = uuid(), lab.sig("tries1", "return:end", key=uuid())
    inner = lab.bus.batch([lab.sig("tries3", "release", "return:x", key=uuid()) for _ in range(3)])
    assert lab.bus.chain([inner, last]).dispatch().get(timeout=60) == "end"
    failing = lab.bus.batch([lab.sig("tries1", "raise:first", "return:mended", key=uuid())]).name(key)
    result = lab.bus.chain([failing, last]).catch(lab.app.tasks["note"].s(key)).dispatch()
    assert caught(lab, key) == ["OSError('first')"]
    (batch,) = [batch for batch in lab.bus.batches() if batch.name == key]
    batch.wait(timeout=30).retry()
    lab.wait_for(last.args[0], "runs", 2)
    assert result.get(timeout=30) == "end"


def check_that_members_are_told_of(lab: Lab) -> None:
    key, note = uuid(), lab.app.tasks["note"]
    members = [lab.sig("tries1", script, key=uuid()) for script in ("return:x", "raise:no", "return:x")]
    pending = lab.bus.batch(members).before(note.s("before", key)).progress(note.s("progress", key))
    pending.allow_failures(note.s("failed", key)).dispatch()
    lab.wait_for(key, "notes", 4)
    kinds = sorted(values[-1].strip("'") for values in lab.written(key, "notes"))
    assert kinds == ["before", "failed", "progress", "progress"]
