"""Batches as jobs among others, worked by a real worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import chord
from celery.utils import uuid

from celery_laravel.runtime import runtime_of
from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from celery_laravel import Batch
    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]


class Scene:
    """A name for a batch within a canvas, and the keys under which the jobs around it write."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.name, self.before, self.inside, self.after, self.caught = (uuid() for _ in range(5))

    def batch(self, *members: Any) -> Any:
        return self.lab.bus.batch(members or [self.ok(), [self.ok(), self.ok()]]).name(self.name)

    def ok(self) -> Any:
        return self.lab.sig("tries3", "return:x", key=self.inside)

    def chain(self, *steps: Any) -> Any:
        steps = (self.lab.sig("plain", "return:x", key=self.before), *steps, self.last())
        return self.lab.bus.chain(steps).catch(self.lab.app.tasks["note"].s(self.caught))

    def last(self, *script: str) -> Any:
        return self.lab.sig("tries1", *(script or ("return:end",)), key=self.after)

    def found(self) -> Batch:
        """The batch, once its job has created it."""
        wait_until(lambda: any(batch.name == self.name for batch in self.lab.bus.batches()), 30)
        found: list[Batch] = [batch for batch in self.lab.bus.batches() if batch.name == self.name]
        return found[0]

    def errors(self, count: int = 1) -> list[str]:
        """The exceptions that were caught, once as many are and another job has gone through since."""
        notes = self.lab.wait_for(self.caught, "notes", count)
        assert self.lab.send("plain", "return:x")[0].get(timeout=30) == "x"
        return [note[0] for note in self.lab.written(self.caught, "notes") or notes]


def test_a_chain_goes_on_once_its_batch_has_finished(lab: Lab) -> None:
    scene = Scene(lab)
    result = scene.chain(scene.batch(), scene.batch()).on_queue(f"other-{lab.places['queue']}").dispatch()
    assert result.get(timeout=60) == "end"
    runs = lab.written(scene.inside, "runs")
    (end,) = lab.written(scene.after, "runs")
    assert (len(runs), max(run["at"] for run in runs) < end["at"]) == (6, True)
    assert {run["queue"] for run in runs} == {f"other-{lab.places['queue']}"}
    assert result.parent.get(timeout=30).processed_jobs == 3
    assert result.parent.parent.parent.get(timeout=30) == "x"


def test_a_step_after_a_batch_is_given_it_and_an_empty_one_ends_at_once(lab: Lab) -> None:
    scene = Scene(lab)
    result = lab.bus.chain([lab.bus.batch([]).name("empty"), lab.app.tasks["note"].s(scene.after)]).dispatch()
    result.get(timeout=30)
    assert lab.written(scene.after, "notes") == [["<Batch empty: 0 of 0 processed, 0 failed, finished>"]]


def test_a_failure_in_a_batch_is_caught_once_and_a_retry_lets_the_chain_go_on(lab: Lab) -> None:
    scene = Scene(lab)
    failing = lab.sig("tries1", "raise:first", "return:mended", key=uuid())
    last = scene.last("raise:last", "return:end")
    steps = [scene.batch(failing, scene.ok()), last]
    result = lab.bus.chain(steps).catch(lab.app.tasks["note"].s(scene.caught)).dispatch()
    assert scene.errors() == ["OSError('first')"]
    batch = scene.found().wait(timeout=30)
    assert (batch.cancelled, batch.failed_jobs, lab.written(scene.after, "runs")) == (True, 1, [])
    records = [record.task for record in lab.bus.failed.all() if "first" in record.exception]
    assert records == ["tries1"], "the job that stands for its batch needs no record of its own"

    batch.retry()
    assert scene.errors(2) == ["OSError('first')", "OSError('last')"]
    (record,) = [record for record in lab.bus.failed.all() if record.id == result.id]
    lab.bus.failed.retry(record.id)
    wait_until(lambda: result.state == "SUCCESS", 30)
    assert result.get(timeout=30) == "end"


def test_a_chain_goes_on_after_failures_that_are_allowed(lab: Lab) -> None:
    scene = Scene(lab)
    members = lab.sig("tries1", "raise:no", key=uuid()), scene.ok()
    result = scene.chain(scene.batch(*members).allow_failures()).dispatch()
    assert result.get(timeout=30) == "end"
    assert lab.written(scene.caught, "notes") == []


def test_a_batch_that_is_cancelled_ends_its_chain(lab: Lab) -> None:
    scene, key = Scene(lab), uuid()
    scene.chain(scene.batch(lab.sig("plain", "wait", key=key))).dispatch()
    lab.wait_for(key, "runs")
    scene.found().cancel()
    lab.go_on(key)
    assert scene.errors() == [f"BatchCancelledError('{scene.found().id}')"]
    assert lab.written(scene.after, "runs") == []


def test_a_batch_within_a_batch_counts_as_one_job_and_holds_the_other_up(lab: Lab) -> None:
    scene, key = Scene(lab), uuid()
    failing = lab.sig("tries1", "raise:first", "return:mended", key=uuid())
    note = lab.app.tasks["note"]
    outer = lab.bus.batch([[scene.batch(failing), scene.last()], lab.bus.batch([scene.ok()])]).allow_failures()
    outer = outer.then(note.s("then", key)).finally_(note.s("finally", key)).dispatch().wait(timeout=30)
    assert (outer.total_jobs, outer.failed_jobs, outer.skipped_jobs) == (3, 1, 1)
    scene.found().retry()
    wait_until(lambda: not outer.fresh().has_failures and not outer.fresh().pending_jobs, 30)  # it had finished before
    assert (outer.fresh().skipped_jobs, len(lab.written(scene.after, "runs"))) == (0, 1)
    assert [note[-1] for note in lab.wait_for(key, "notes", 2)] == ["'finally'", "'then'"]


def test_a_chord_waits_for_a_batch_in_its_header(lab: Lab) -> None:
    scene = Scene(lab)
    body = lab.app.tasks["note"].si("body", scene.after)
    chord([scene.batch(scene.ok()).signature(), scene.ok()])(body).get(timeout=30)
    assert len(lab.written(scene.inside, "runs")) == 2
    assert scene.found().finished


def test_a_batch_that_wakes_its_chain_twice_lets_it_go_on_once(lab: Lab) -> None:
    """As after a crash between the sending and the clearing of the due mark."""
    scene, key = Scene(lab), uuid()
    result = scene.chain(scene.batch(lab.sig("plain", "wait", key=key))).dispatch()
    lab.wait_for(key, "runs")
    batch = scene.found()
    record = runtime_of(lab.app).store.batches.find(batch.id)
    lab.go_on(key)
    assert result.get(timeout=30) == "end"
    assert record is not None
    for kind in ("next", "catch"):
        (signature,) = record.callbacks[kind]
        lab.app.signature(signature).apply_async()
    assert lab.send("plain", "return:x")[0].get(timeout=30) == "x"
    assert len(lab.written(scene.after, "runs")) == 1
    assert lab.written(scene.caught, "notes") == []


def test_a_copy_of_the_message_that_dispatches_a_batch_changes_nothing(lab: Lab) -> None:
    scene, key = Scene(lab), uuid()
    signature = scene.batch(lab.sig("plain", "wait", key=key)).signature().set(task_id=uuid())
    result = signature.apply_async()
    lab.wait_for(key, "runs")
    signature.apply_async()
    assert lab.send("plain", "return:x")[0].get(timeout=30) == "x"
    lab.go_on(key)
    assert result.get(timeout=30).total_jobs == 1
    assert len(lab.written(key, "runs")) == 1


def test_a_signature_of_a_batch_is_for_one_dispatch(lab: Lab) -> None:
    scene = Scene(lab)
    signature = scene.batch(scene.ok()).signature()
    assert signature.apply_async().get(timeout=30).finished
    with pytest.raises(RuntimeError, match="dispatched before"):
        signature.clone().apply_async().get(timeout=30)
    assert not scene.found().cancelled


@pytest.mark.parametrize("at", [2, pytest.param(4, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)])
def test_a_chain_survives_a_process_that_dies_around_its_batch(make_lab: MakeLab, at: int) -> None:
    """While it sends the second of three members, as it wakes the chain, or as it sends the step after the batch."""
    lab = make_lab()
    scene, keys = Scene(lab), [uuid() for _ in range(3)]
    batch = scene.batch(*(lab.sig("tries3", "return:x", key=key) for key in keys)).then(
        lab.app.tasks["note"].s("then", scene.inside)
    )
    with lab.worker(app="tests.support.dying_app", env={"JOBS_DIES_AT": str(at)}):
        result = lab.bus.chain([batch, scene.last()]).catch(lab.app.tasks["note"].s(scene.caught)).dispatch()
        assert result.get(timeout=60) == "end"
        lab.wait_for(scene.inside, "notes")
        assert lab.send("plain", "return:x")[0].get(timeout=30) == "x"
    found = scene.found()
    assert (found.total_jobs, found.processed_jobs, found.failed_jobs) == (3, 3, 0)
    assert [len(lab.attempts(key)) > 0 for key in keys] == [True] * 3
    assert (len(lab.written(scene.after, "runs")), len(lab.written(scene.inside, "notes"))) == (1, 1)
    assert lab.written(scene.caught, "notes") == []
