"""Receivers, hooks and callbacks that raise, every time they are called: no outcome is another one for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid

from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    import random

    from tests.chaos.ledger import Entry
    from tests.chaos.stage import Stage

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def sour(make_stage: Any) -> Stage:
    """A stage in whose workers a receiver of every signal raises."""
    stage: Stage = make_stage("redis × redis")
    stage.start(env={"CHAOS_RAISES": "1"})
    return stage


@pytest.mark.promise("a receiver, hook or callback that raises changes no outcome")
@pytest.mark.short(1)
def test_what_raises_changes_no_outcome(sour: Stage, entry: Entry, rng: random.Random) -> None:
    key, results = str(uuid()), {}
    endings = [rng.choice(["return", "raise"]) for _ in range(10)]
    for number, ending in enumerate(["return", "raise", *endings]):
        results[f"{number}"] = ending, sour.sig("sour", key, f"{number}", ending).apply_async()
    callback = sour.app.tasks["sour_callback"]
    members = [sour.sig("sour", key, "member", "return"), sour.sig("sour", key, "failing", "raise")]
    pending = sour.bus.batch(members).allow_failures().catch(callback.s("catch", key))
    batch = pending.finally_(callback.s("finally", key)).dispatch()
    chain = [sour.sig("sour", key, "step"), sour.sig("sour", key, "last step", "raise")]
    sour.bus.chain(chain).catch(callback.s("chain", key)).dispatch()
    called = {"catch", "finally", "chain"}
    wait_until(lambda: {call["kind"] for call in sour.written(key, "called")} >= called, 60)
    sour.wait_until_quiet()

    entry.fault("raised", len(sour.written(key, "failed")) + len(sour.written(key, "called")))
    done, failed = ([step["name"] for step in sour.written(key, kind)] for kind in ("done", "failed"))
    entry.expect_each([n for n, (how, _) in results.items() if how == "return"] + ["member", "step"], done)
    entry.expect_each([n for n, (how, _) in results.items() if how == "raise"] + ["failing", "last step"], failed)
    entry.expect_each(called, [call["kind"] for call in sour.written(key, "called")])
    for name, (ending, result) in results.items():
        expected = "SUCCESS" if ending == "return" else "FAILURE"
        entry.expect(result.state == expected, f"{name}: {result.state}")
        entry.expect((sour.bus.failed.find(result.id) is None) == (ending == "return"), f"the record of {name}")
    finished = batch.fresh()
    assert finished is not None
    counts = finished.total_jobs, finished.pending_jobs, finished.failed_jobs
    entry.expect(counts == (2, 0, 1), f"counts: {counts}")
    entry.judge()
