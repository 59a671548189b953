"""Functions as jobs, worked by a real worker."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid

from celery_laravel import Bus, current_job
from celery_laravel.errors import InvalidSignatureError
from celery_laravel.testing.processes import wait_until
from tests.support.jobs_app import make_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Iterator[Lab]:
    """A worker that knows two keys, the newer of which signs."""
    lab = make_lab(laravel_secret_key=["new", "old"])
    with lab.worker():
        yield lab


def writing(lab: Lab, key: str, value: Any) -> Any:
    """A function that captures where it is to write, and what."""
    url = lab.places["record"]

    def write(*given: Any) -> str:
        from tests.support.jobs_app import Record

        Record(url).add(key, "notes", [value, *map(repr, given)])
        assert current_job() is not None
        return str(value)

    return write


def test_functions_run_as_jobs_steps_and_callbacks(lab: Lab) -> None:
    key = uuid()
    assert lab.bus.closure(writing(lab, key, 1)).name("first").dispatch().get(timeout=30) == "1"
    plain = lab.sig("plain", "return:x", key=uuid())
    assert lab.bus.chain([plain, writing(lab, key, 2), writing(lab, key, 3)]).dispatch().get(timeout=30) == "3"
    batch = lab.bus.batch([writing(lab, key, 4)]).progress(writing(lab, key, 5)).then(writing(lab, key, 6)).dispatch()
    notes = lab.wait_for(key, "notes", 6)
    assert sorted(note[0] for note in notes) == [1, 2, 3, 4, 5, 6]
    assert [len(note) for note in sorted(notes)] == [1, 1, 1, 1, 2, 2], "callbacks are given the batch"
    assert batch.wait(timeout=30).processed_jobs == 1


def test_a_function_that_fails_is_caught_by_functions(lab: Lab) -> None:
    key = uuid()

    def fail() -> None:
        raise LookupError("gone")

    lab.bus.closure(fail).catch(writing(lab, key, "own")).dispatch()
    lab.bus.chain([fail, writing(lab, key, "never")]).catch(writing(lab, key, "chain")).dispatch()
    assert sorted(lab.wait_for(key, "notes", 2)) == [["chain", "LookupError('gone')"], ["own", "LookupError('gone')"]]


def test_a_running_step_puts_batches_and_functions_into_its_chain(lab: Lab) -> None:
    key = uuid()

    def change() -> None:
        job = current_job()
        assert job is not None
        job.prepend_to_chain(writing(lab, key, "second"))
        job.prepend_to_chain(Bus(job.app).batch([writing(lab, key, "first"), [writing(lab, key, "first")]]))
        job.append_to_chain(Bus(job.app).batch([writing(lab, key, "last")]))

    lab.bus.chain([change, writing(lab, key, "third")]).dispatch()
    assert lab.wait_for(key, "notes", 5) == [["first"], ["first"], ["second"], ["third"], ["last"]]


def test_what_an_older_key_signed_runs_and_what_a_foreign_one_signed_does_not(lab: Lab) -> None:
    key = uuid()
    for secret, runs in (("old", True), ("foreign", False)):
        other = make_app(**lab.places, laravel_secret_key=secret)
        result = Bus(other).closure(writing(lab, key, secret)).catch(writing(lab, key, "caught")).dispatch()
        if runs:
            assert result.get(timeout=30) == secret
        else:
            with pytest.raises(InvalidSignatureError, match="was not signed for it"):
                result.get(timeout=30)
            wait_until(partial(lab.bus.failed.find, result.id), 30)
        other.close()
    assert lab.send("plain", "return:x")[0].get(timeout=30) == "x"
    assert lab.written(key, "notes") == [["old"]]


def test_nothing_secret_or_pickled_is_shown(lab: Lab) -> None:
    """Neither in the message's texts for people nor in the record of a failed job."""
    secret = uuid()

    def fail() -> None:
        raise LookupError(len(secret))

    result = lab.bus.closure(fail).name("quiet").dispatch()
    with pytest.raises(LookupError):
        result.get(timeout=30)
    wait_until(partial(lab.bus.failed.find, result.id), 30)
    record = lab.bus.failed.find(result.id)
    assert record is not None
    assert (record.kwargs_repr, secret in record.args_repr + record.exception) == ("{'closure': 'quiet'}", False)
