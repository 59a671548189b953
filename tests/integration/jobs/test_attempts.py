"""Attempts and their endings, in a real prefork worker on Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid

from celery_laravel import JobTimedOutError, ManuallyFailedError, MaxAttemptsExceededError
from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.matrix,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]


def test_an_exception_leads_to_another_attempt_until_none_is_left(lab: Lab) -> None:
    result, key = lab.send("tries3", "raise:always")
    with pytest.raises(OSError, match="always"):
        result.get(timeout=30)
    assert lab.attempts(key) == [1, 2, 3]
    assert lab.written(key, "middleware") == [1, 2, 3]
    assert lab.wait_for(key, "failed") == ["OSError: always"]
    record = wait_until(lambda: lab.bus.failed.find(result.id))
    assert (record.task, record.attempts, record.queue) == ("tries3", 3, lab.places["queue"])
    assert record.exception == "OSError: always"
    assert "in play" in record.traceback


def test_a_later_attempt_may_succeed(lab: Lab) -> None:
    result, key = lab.send("tries3", "raise:x", "raise:y", "return:done")
    assert result.get(timeout=30) == "done"
    assert lab.attempts(key) == [1, 2, 3]
    assert lab.written(key, "failed") == []
    assert lab.bus.failed.find(result.id) is None


def test_backoff_is_waited_for(lab: Lab) -> None:
    result, key = lab.send("backoff", "raise:x", "raise:y", "return:done")
    assert result.get(timeout=30) == "done"
    first, second, third = (run["at"] for run in lab.written(key, "runs"))
    assert second - first >= 0.3
    assert third - second >= 0.1


def test_the_state_in_between_is_retry(lab: Lab) -> None:
    result, _ = lab.send("tries3", "release:20")
    wait_until(lambda: result.state == "RETRY")
    result.revoke()


def test_max_exceptions(lab: Lab) -> None:
    result, key = lab.send("max2", "raise:x", "release", "raise:y", "return:never")
    with pytest.raises(OSError, match="y"):
        result.get(timeout=30)
    assert lab.attempts(key) == [1, 2, 3]


def test_retry_until(lab: Lab) -> None:
    result, key = lab.send("until", "raise:x")
    with pytest.raises((OSError, MaxAttemptsExceededError)):
        result.get(timeout=30)
    attempts = lab.attempts(key)
    assert attempts == list(range(1, len(attempts) + 1))
    assert 2 <= len(attempts) <= 4


def test_releases_use_up_attempts(lab: Lab) -> None:
    result, key = lab.send("tries3", "release")
    with pytest.raises(MaxAttemptsExceededError, match=r"attempt 4 of 3\. The attempt before put it back"):
        result.get(timeout=30)
    assert lab.attempts(key) == [1, 2, 3]
    assert len(lab.wait_for(key, "failed")) == 1
    record = wait_until(lambda: lab.bus.failed.find(result.id))
    assert record.exception.startswith("MaxAttemptsExceededError")
    assert record.attempts == 3, "it was picked up once more, and that was no attempt"


def test_the_log_says_for_how_long_a_job_is_put_back(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.worker() as worker:
        result, _ = lab.send("plain", "release", "release:0.2", "return:done")
        assert result.get(timeout=30) == "done"
        for delay in "0", "0.2":
            worker.wait_for_log(f"Task plain[{result.id}] retry: released for {delay} s\n")


def test_a_job_without_options_may_be_released(lab: Lab) -> None:
    result, key = lab.send("plain", "release", "release:0.2", "return:done")
    assert result.get(timeout=30) == "done"
    assert lab.attempts(key) == [1, 2, 3]


def test_an_exception_after_a_release_counts_and_takes_its_delay(lab: Lab) -> None:
    result, key = lab.send("tries3", "release:0.3+raise:x", "return:done")
    assert result.get(timeout=30) == "done"
    first, second = (run["at"] for run in lab.written(key, "runs"))
    assert second - first >= 0.3


@pytest.mark.parametrize("task", ["tries3", "plain", "early"])
def test_fail_fails_at_once_whatever_follows(lab: Lab, task: str) -> None:
    result, key = lab.send(task, "fail:enough+release+delete+return:x")
    with pytest.raises(ManuallyFailedError, match="enough"):
        result.get(timeout=30)
    assert lab.attempts(key) == [1]
    assert lab.wait_for(key, "failed") == ["ManuallyFailedError: enough"]


@pytest.mark.parametrize("task", ["tries3", "plain"])
@pytest.mark.parametrize("after", ["return:x", "release", "raise:x", "fail"])
def test_delete_is_done_whatever_follows(lab: Lab, task: str, after: str) -> None:
    result, key = lab.send(task, f"delete+{after}")
    result.get(timeout=30)
    assert result.state == "SUCCESS"
    assert lab.attempts(key) == [1]
    assert lab.written(key, "failed") == []


def test_a_timeout_is_an_exception_like_any_other(lab: Lab) -> None:
    result, key = lab.send("timeout", "wait", "return:done")
    assert result.get(timeout=30) == "done"
    assert lab.attempts(key) == [1, 2]
    assert "job_timed_out" in lab.written(result.id, "signals")


def test_a_timeout_may_fail_the_job_at_once(lab: Lab) -> None:
    result, key = lab.send("timeout_fails", "wait")
    with pytest.raises(JobTimedOutError, match="1 seconds"):
        result.get(timeout=30)
    assert lab.attempts(key) == [1]
    assert wait_until(lambda: lab.bus.failed.find(result.id)).exception.startswith("JobTimedOutError")


def test_the_signals_of_an_attempt(lab: Lab) -> None:
    result, _ = lab.send("tries3", "raise:x", "release", "return:done")
    result.get(timeout=30)
    expected = ["job_processing", "job_exception_occurred", "job_released"]
    expected += ["job_processing", "job_released", "job_processing", "job_processed"]
    signals = lab.wait_for(result.id, "signals", len(expected))
    assert sorted(signals) == sorted(expected), "the next attempt may begin before the last one has told of its end"
    assert signals[:2] == expected[:2]


def test_a_failure_is_signalled_once(lab: Lab) -> None:
    result, _ = lab.send("tries1", "raise:x")
    wait_until(lambda: result.state == "FAILURE")
    found = lab.wait_for(result.id, "signals", 3)
    assert sorted(found) == ["job_exception_occurred", "job_failed", "job_processing"]


def test_a_job_may_run_another_here_and_now(lab: Lab) -> None:
    result = lab.app.tasks["inner_sync"].delay("sync-key")
    assert result.get(timeout=30) == ["in", 1]


def test_a_base_class_of_the_users_wraps_every_attempt_once(lab: Lab) -> None:
    result = lab.app.tasks["wrapped"].delay(key := "wrapped-key")
    assert result.get(timeout=30) == 2
    assert lab.written(key, "context") == ["enter", "enter"]
    assert lab.written(key, "runs") == [1, 2]


def test_a_result_that_cannot_be_encoded_fails_the_job_once(lab: Lab) -> None:
    result = lab.app.tasks["unserializable"].delay("unserializable-key")
    wait_until(lambda: result.state == "FAILURE")
    assert lab.written("unserializable-key", "runs") == [1]
    assert wait_until(lambda: lab.bus.failed.find(result.id)).attempts == 1


@pytest.mark.parametrize("task", ["celery_retry", "celery_autoretry"])
def test_celerys_own_retrying_keeps_its_own_budget(lab: Lab, task: str) -> None:
    step = "retry" if task == "celery_retry" else "raise:retried"
    result, key = lab.send(task, "release", step)
    with pytest.raises(OSError, match="retried"):
        result.get(timeout=30)
    assert len(lab.attempts(key)) == 4


def test_celerys_retry_uses_up_no_try(lab: Lab) -> None:
    result, key = lab.send("tries1", "retry", "return:done")
    assert result.get(timeout=30) == "done"
    assert lab.attempts(key) == [1, 1]


def test_ignore_and_reject_are_celerys(lab: Lab) -> None:
    ignored, _ = lab.send("tries3", "ignore")
    _, key = lab.send("tries3", "reject")
    lab.wait_for(key, "runs")
    assert lab.send("plain", "return:after")[0].get(timeout=30) == "after"
    assert ignored.state in {"PENDING", "STARTED", "IGNORED"}
    assert lab.attempts(key) == [1]


def test_links_and_errbacks_are_called_once_at_the_end(lab: Lab) -> None:
    note = lab.app.tasks["note"]
    result, _ = lab.send("tries3", "raise:x", "release", "return:5", link=note.s("linked"))
    result.get(timeout=30)
    assert lab.wait_for("linked", "notes") == [["'5'"]]
    failing, _ = lab.send("tries3", "raise:x", link_error=note.si("errored"))
    wait_until(lambda: failing.state == "FAILURE")
    assert lab.wait_for("errored", "notes") == [[]]


def test_an_expired_job_does_not_run_even_when_it_was_released_before(lab: Lab) -> None:
    result, key = lab.send("endless", "release:3", "return:never", expires=1.5)
    wait_until(lambda: result.state == "REVOKED")
    assert lab.attempts(key) == [1]


def test_a_revoked_job_does_not_run_again(lab: Lab) -> None:
    result, key = lab.send("endless", "release:1.5", "return:never")
    lab.wait_for(key, "runs")
    result.revoke()
    wait_until(lambda: result.state == "REVOKED")
    assert lab.attempts(key) == [1]


def test_a_plain_task_whose_arguments_only_pickle_can_carry_may_be_released(lab: Lab) -> None:
    key = uuid()
    result = lab.app.tasks["bare"].apply_async((key, ["release", "release", "return:x"], {1}), serializer="pickle")
    assert result.get(timeout=30) == "x"
    assert lab.attempts(key) == [1, 2, 3]


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", 2 + 3j], ids=repr)
def test_serializer_compression_queue_and_priority_survive_a_release(lab: Lab, value: Any) -> None:
    key = f"echo-{value!r}"
    result = lab.app.tasks["echo"].apply_async(
        (key, value), serializer="pickle", compression="zlib", priority=3, queue=f"other-{lab.places['queue']}"
    )
    assert result.get(timeout=30) == repr(value)
    runs = lab.written(key, "runs")
    assert runs == [[type(value).__name__, repr(value), runs[0][2]]] * 2
    result, key = lab.send("tries3", "release", "return:x", queue=f"other-{lab.places['queue']}")
    result.get(timeout=30)
    assert {run["queue"] for run in lab.written(key, "runs")} == {f"other-{lab.places['queue']}"}
