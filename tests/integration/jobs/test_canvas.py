"""Jobs in chains, groups and chords: however a job ends, what waits for it comes to its end."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError
from celery.utils import uuid

from celery_laravel import ManuallyFailedError
from celery_laravel.message.canvas import tasks_of
from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import Lab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.matrix,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

LONG_WAYS = [
    ["release", "return:x"],
    ["raise:x", "return:x"],
    ["delete+return:x"],
    ["delete+raise:x"],
    ["release", "delete"],
]


@pytest.mark.parametrize("script", LONG_WAYS, ids="-".join)
@pytest.mark.parametrize("task", ["tries3", "early"])
def test_a_chain_goes_on_after_a_job_that_took_the_long_way(lab: Lab, task: str, script: list[str]) -> None:
    key = uuid()
    steps = [lab.sig(task, *script, key=key), lab.sig("plain", "return:after", key=f"{key}-after")]
    assert chain(*steps).apply_async().get(timeout=30) == "after"
    assert lab.attempts(f"{key}-after") == [1]


@pytest.mark.parametrize("script", LONG_WAYS, ids="-".join)
def test_a_chord_completes_once_around_a_job_that_took_the_long_way(lab: Lab, script: list[str]) -> None:
    key = uuid()
    header = [lab.sig("tries3", *script, key=key), lab.sig("plain", "return:y", key=f"{key}-other")]
    values = chord(header, lab.app.tasks["total"].s(key)).apply_async().get(timeout=30)
    assert values[1] == "y"
    assert len(lab.written(key, "notes")) == 1


@pytest.mark.parametrize("end", ["fail:no", "raise:no"])
def test_a_chord_with_a_failed_job_fails_and_does_not_hang(lab: Lab, end: str) -> None:
    key = uuid()
    header = [lab.sig("tries3", end, key=key), lab.sig("plain", "return:y", key=f"{key}-other")]
    result = chord(header, lab.app.tasks["total"].s(key)).apply_async()
    with pytest.raises((ChordError, ManuallyFailedError, OSError)):
        result.get(timeout=30)
    assert lab.written(key, "notes") == []


def test_a_body_that_is_released_completes(lab: Lab) -> None:
    key = uuid()
    body = lab.sig("tries3", "release", "return:body", key=key)
    assert chord([lab.sig("plain", "return:x", key=uuid())] * 2, body).apply_async().get(timeout=30) == "body"


def test_a_group_gives_every_jobs_value(lab: Lab) -> None:
    jobs = [lab.sig("tries3", "release", f"return:{n}", key=uuid()) for n in range(4)]
    assert group(jobs).apply_async().get(timeout=30) == ["0", "1", "2", "3"]


def test_a_failed_job_ends_its_chain(lab: Lab) -> None:
    key = uuid()
    failing = chain(lab.sig("tries3", "raise:x", key=key), lab.sig("plain", "return:y", key=f"{key}-after"))
    result = failing.apply_async()
    wait_until(lambda: result.parent.state == "FAILURE")
    assert lab.send("plain", "return:z")[0].get(timeout=30) == "z"
    assert lab.attempts(f"{key}-after") == []


@pytest.mark.parametrize("task", ["plain", "tries3"])
@pytest.mark.parametrize(
    ("how", "value"), [("replace:new", "replaced"), ("replace_group", ["1", "2"]), ("replace_chain", "2")]
)
def test_a_job_may_be_replaced(lab: Lab, task: str, how: str, value: object) -> None:
    key = uuid()
    result, _ = lab.send(task, how, key=key)
    assert result.get(timeout=30) == value
    follows = chain(lab.sig(task, how, key=uuid()), lab.sig("plain", "return:after", key=uuid()))
    assert follows.apply_async().get(timeout=30) == "after"


def test_a_replaced_job_in_a_chord_completes_it(lab: Lab) -> None:
    key = uuid()
    header = [lab.sig("tries3", "release", "replace:new", key=uuid()), lab.sig("plain", "return:y", key=uuid())]
    assert chord(header, lab.app.tasks["total"].s(key)).apply_async().get(timeout=30) == ["replaced", "y"]


def test_canvases_of_any_shape_in_which_anything_fails_leave_their_batch_finished(lab: Lab) -> None:
    """Celery moves what follows a task about as a canvas is dispatched: into chords, chains and groups."""
    shapes = [random_canvas(lab, Random(seed), depth=3) for seed in range(1, 13)]
    sizes = [sum(1 for _ in tasks_of(shape)) for shape in shapes]
    batches = [lab.bus.batch([shape]).allow_failures().dispatch() for shape in shapes]
    for size, batch in zip(sizes, batches, strict=True):
        done = batch.wait(timeout=60)
        assert (done.total_jobs, done.pending_jobs) == (size, 0)


def random_canvas(lab: Lab, dice: Random, depth: int) -> Any:
    """A canvas of which a quarter of the tasks fail, and others take the long way."""
    kinds = ["task", "task", *(["chain", "group", "chord"] if depth else [])]
    kind = dice.choice(kinds)
    if kind == "task":
        if dice.random() < 0.25:
            return lab.sig("tries1", "raise:x", key=uuid())
        return lab.sig("tries3", *dice.choice([["return:x"], ["release", "return:x"]]), key=uuid())
    parts = [random_canvas(lab, dice, depth - 1) for _ in range(dice.randint(2 if kind == "chain" else 1, 3))]
    if kind == "chord":
        return chord(parts, random_canvas(lab, dice, 0), app=lab.app)
    return (chain if kind == "chain" else group)(parts, app=lab.app)
