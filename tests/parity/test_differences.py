"""The deliberate differences from Laravel, one by one, as a user would notice them."""

from __future__ import annotations

import pytest

from tests.parity.conftest import Play
from tests.parity.scenes import (
    DRAIN,
    RETRY,
    STORES,
    alone,
    batch,
    called,
    counts,
    failures,
    handled,
    scenario,
    snapshot,
    waiting,
)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- 1: an attempt has one outcome


@pytest.mark.parametrize(
    "action", ["release:5+raise:E1", "release:5+fail:E1", "fail:E1+release:5", "fail:E1+delete", "fail:E1+raise:E2"]
)
def test_a_job_that_fails_is_not_queued_again(action: str, play: Play, store: str) -> None:
    played = play(alone(tries=1, script=[action, "ok"]), store)
    assert handled(played) == ["A"]
    assert failures(played) == [("A", "E1")]
    assert "released" not in played
    assert waiting(played) == 0


@pytest.mark.parametrize("action", ["delete+release:5", "release:5+delete", "delete+fail:E1", "delete+raise:E1"])
def test_a_deleted_job_neither_fails_nor_comes_back(action: str, play: Play, store: str) -> None:
    played = play(alone(tries=3, script=[action, "ok"]), store)
    assert handled(played) == ["A"]
    assert failures(played) == []
    assert waiting(played) == 0


def test_an_exception_after_a_release_is_released_once_with_its_delay(play: Play, store: str) -> None:
    played = play(alone(tries=2, backoff=3, script=["release:5+raise:E1", "ok"]), store)
    assert played["released"] == [("A", 5.0)]
    assert played["exception"] == {("A", "E1"): 1}
    assert handled(played) == ["A", "A"]


def test_the_last_of_several_releases_holds(play: Play, store: str) -> None:
    played = play(alone(tries=2, script=["release:5+release:20", "ok"]), store)
    assert played["released"] == [("A", 20.0)]


@pytest.mark.parametrize("action", ["fail:E1+raise:E2", "delete+raise:E2"])
def test_an_exception_after_the_outcome_is_only_reported(action: str, play: Play, store: str) -> None:
    played = play(alone(tries=3, script=[action]), store)
    assert played["exception"] == {("A", "E2"): 1}
    assert handled(played) == ["A"]


# -- 2: deleted means done


def test_a_chain_goes_on_after_a_job_that_deletes_itself_and_raises(play: Play, store: str) -> None:
    jobs = {"A": ["delete+raise:E1"], "B": ["ok"]}
    assert handled(play(scenario(jobs, {"op": "chain", "jobs": ["A", "B"]}, DRAIN), store)) == ["A", "B"]


def test_a_batch_counts_a_deleted_job_as_processed(play: Play, store: str) -> None:
    played = play(scenario({"A": ["delete+raise:E1"], "B": ["ok"]}, batch(["A", "B"]), DRAIN), store)
    assert called(played) == ["then", "finally"]
    assert counts(played)["processed"] == 2


# -- 3: a job counts once


def test_a_member_that_is_tried_several_times_counts_once(play: Play, store: str) -> None:
    jobs = {"A": {"tries": 3, "script": ["release:1", "raise:E1", "ok"]}, "B": ["ok"], "C": ["ok"]}
    played = play(scenario(jobs, batch([["A", "B"], "C"]), DRAIN), store)
    assert handled(played) == ["A", "C", "A", "A", "B"]
    assert called(played) == ["then", "finally"]
    assert counts(played)["processed"] == 3


# -- 4: members that will never run


@pytest.mark.parametrize("allow_failures", [False, True])
def test_a_batch_finishes_though_the_rest_of_a_chain_never_runs(allow_failures: bool, play: Play, store: str) -> None:
    jobs = {"A": ["raise:E1"], "B": ["ok"], "C": ["ok"]}
    played = play(scenario(jobs, batch([["A", "B"], "C"], allow_failures=allow_failures), DRAIN), store)
    assert handled(played) == ["A", "C"]
    assert called(played) == ["catch", "finally"]
    assert (counts(played)["pending"], counts(played)["failed"]) == (0, 1)


def test_a_retry_puts_back_the_members_it_revives(play: Play, store: str) -> None:
    jobs = {"A": ["raise:E1", "ok"], "B": ["ok"], "C": ["ok"]}
    steps = (batch([["A", "B"], "C"]), DRAIN, snapshot("failed"), RETRY, snapshot("retried"), DRAIN)
    played = play(scenario(jobs, *steps), store)
    assert (counts(played, "failed")["pending"], counts(played, "retried")["pending"]) == (0, 2)
    assert handled(played) == ["A", "C", "A", "B"]
    assert called(played) == ["catch", "finally", "then"]


# -- 5: an empty batch


def test_an_empty_batch_finishes_at_once(play: Play, store: str) -> None:
    played = play(scenario({}, batch([]), snapshot("dispatched")), store)
    assert called(played) == ["then", "finally"]
    assert counts(played, "dispatched")["finished"]
    assert counts(played, "dispatched")["progress"] == 100


# -- 6: finished and cancelled are two things


def test_a_batch_with_a_failure_that_it_allows_finishes(play: Play, store: str) -> None:
    played = play(scenario({"A": ["raise:E1"], "B": ["ok"]}, batch(["A", "B"], allow_failures=True), DRAIN), store)
    assert counts(played)["finished"]
    assert not counts(played)["cancelled"]


def test_a_cancelled_batch_is_not_finished_while_jobs_are_outstanding(play: Play, store: str) -> None:
    steps = (batch(["A", "B"]), {"op": "batch_cancel", "batch": "b"}, snapshot("cancelled"), DRAIN)
    played = play(scenario({"A": ["ok"], "B": ["ok"]}, *steps), store)
    assert (counts(played, "cancelled")["cancelled"], counts(played, "cancelled")["finished"]) == (True, False)
    assert (counts(played)["cancelled"], counts(played)["finished"]) == (True, True)


# -- 7, 19: failed jobs are those that have failed


def test_then_is_called_once_all_have_succeeded_even_after_a_retry_and_finally_not_again(
    play: Play, store: str
) -> None:
    jobs = {"A": ["raise:E1", "raise:E2", "ok"], "B": ["ok"]}
    played = play(scenario(jobs, batch(["A", "B"], allow_failures=True), DRAIN, RETRY, DRAIN, RETRY, DRAIN), store)
    assert called(played) == ["catch", "finally", "then"]
    assert (counts(played)["failed"], counts(played)["failed_job_ids"]) == (0, 0)


def test_a_retried_member_is_no_failed_job_from_the_moment_its_retry_is_queued(play: Play, store: str) -> None:
    steps = (batch(["A", "B"], allow_failures=True), DRAIN, snapshot("failed"), RETRY, snapshot("retried"))
    played = play(scenario({"A": ["raise:E1", "ok"], "B": ["ok"]}, *steps), store)
    assert (counts(played, "failed")["failed"], counts(played, "failed")["failed_job_ids"]) == (1, 1)
    assert (counts(played, "retried")["failed"], counts(played, "retried")["failed_job_ids"]) == (0, 0)


# -- 8: a finished batch takes no more jobs


@pytest.mark.parametrize("script", ["ok", "batch.cancel"])
def test_adding_to_a_batch_whose_jobs_have_all_run_is_refused(script: str, play: Play, store: str) -> None:
    steps = (batch(["A"]), DRAIN, {"op": "batch_add", "batch": "b", "jobs": ["B"]}, DRAIN)
    played = play(scenario({"A": [script], "B": ["ok"]}, *steps), store)
    assert played["batch_add_refused"] == [("BatchFinishedError",)]
    assert handled(played) == ["A"]
    assert called(played) == ["then", "finally"]
    assert counts(played)["total"] == 1


def test_a_cancelled_batch_takes_jobs_while_others_are_outstanding(play: Play, store: str) -> None:
    steps = (batch(["A", "B"]), {"op": "batch_cancel", "batch": "b"}, {"op": "batch_add", "batch": "b", "jobs": ["C"]})
    played = play(scenario({"A": ["ok"], "B": ["ok"], "C": ["ok"]}, *steps, DRAIN), store)
    assert handled(played) == ["A", "B", "C"]
    assert counts(played)["total"] == 3


# -- 9: failing by hand


def test_failing_without_a_reason_gives_hooks_and_callbacks_an_exception_all_the_same(play: Play, store: str) -> None:
    played = play(scenario({"A": ["fail"]}, batch(["A"]), DRAIN), store)
    assert played["failed_hook"] == [("A", "ManuallyFailedError")]
    assert played["callback"][0] == ("catch", "catch", "ManuallyFailedError")
    assert failures(played) == [("A", "ManuallyFailedError")]


# -- 10: hooks that raise


def test_an_exception_in_the_failed_hook_neither_hides_the_jobs_own_nor_keeps_others_from_knowing(
    play: Play, store: str
) -> None:
    jobs = {"A": {"script": ["raise:E1"], "failed_hook_action": "raise:HookError"}}
    played = play(scenario(jobs, batch(["A"]), DRAIN), store)
    assert played["exception"] == {("A", "E1"): 1}
    assert played["failed"] == [("A", "E1")]
    assert failures(played) == [("A", "E1")]
    assert called(played) == ["catch", "finally"]


def test_an_exception_in_a_callback_keeps_no_other_from_being_called(play: Play, store: str) -> None:
    raising = [{"name": "c1", "action": "raise:E2"}, "c2"]
    steps = ({**batch(["A"]), "catch": raising, "finally": raising}, DRAIN)
    played = play(scenario({"A": ["raise:E1"]}, *steps), store)
    names = [("catch", "c1"), ("catch", "c2"), ("finally", "c1"), ("finally", "c2")]
    assert [(kind, name) for kind, name, _ in played["callback"]] == names
    assert played["failed_hook"] == [("A", "E1")]


# -- 13: running in the caller


def test_dispatch_sync_of_a_job_that_releases_itself_raises(play: Play, store: str) -> None:
    played = play(scenario({"A": {"tries": 3, "script": ["release:10"]}}, {"op": "dispatch_sync", "job": "A"}), store)
    assert played["raised_to_caller"] == [("JobReleasedError",)]
    assert "failed_hook" not in played
    assert failures(played) == []
    assert waiting(played) == 0


# -- 18: when the attempt ends


def test_what_a_failing_job_does_after_saying_so_comes_before_its_hooks(play: Play, store: str) -> None:
    """The batch still counts it while its code runs, so it may add to the batch whose last job it is."""
    jobs = {"A": ["fail:E1+batch.log+batch.add:B"], "B": ["batch.log"]}
    played = play(scenario(jobs, batch(["A"], allow_failures=True), DRAIN), store)
    assert [state["failed"] for state in played["batch_state"]] == [0, 1]
    assert [state["pending"] for state in played["batch_state"]] == [1, 1]
    assert called(played) == ["catch", "finally"]


# -- 20: pending are the outstanding ones


def test_the_counts_of_a_batch_add_up_and_progress_reaches_100(play: Play, store: str) -> None:
    jobs = {"A": ["raise:E1"], "B": ["ok"], "C": {"tries": 2, "script": ["release:5", "ok"]}}
    steps = (batch([["A", "B"], "C"], allow_failures=True), {"op": "work"}, snapshot("meanwhile"), DRAIN)
    played = play(scenario(jobs, *steps), store)
    meanwhile, final = counts(played, "meanwhile"), counts(played)
    assert (meanwhile["total"], meanwhile["pending"], meanwhile["processed"], meanwhile["progress"]) == (3, 1, 2, 67)
    assert (final["total"], final["pending"], final["processed"], final["progress"]) == (3, 0, 3, 100)


def test_a_retry_makes_its_member_pending_again(play: Play, store: str) -> None:
    steps = (batch(["A", "B"], allow_failures=True), DRAIN, RETRY, snapshot("retried"), DRAIN)
    played = play(scenario({"A": ["raise:E1", "ok"], "B": ["ok"]}, *steps), store)
    retried = counts(played, "retried")
    assert (retried["pending"], retried["finished"], retried["progress"]) == (1, False, 50)
    assert counts(played)["finished"]


# -- 22: ties


def test_jobs_that_fall_due_at_the_same_instant_all_run(play: Play, store: str) -> None:
    later = [{"op": "dispatch", "job": label, "delay": 5} for label in ("B", "A", "C")]
    played = play(scenario({"A": ["ok"], "B": ["ok"], "C": ["ok"]}, *later, DRAIN), store)
    assert sorted(handled(played)) == ["A", "B", "C"]


# -- as in Laravel, and nowhere recorded


def test_a_batch_is_retried_oldest_failure_first(play: Play, store: str) -> None:
    jobs = {"A": {"tries": 2, "script": ["release:5", "raise:E1", "ok"]}, "B": ["raise:E2", "ok"]}
    played = play(scenario(jobs, batch(["A", "B"], allow_failures=True), DRAIN, RETRY, DRAIN), store)
    assert failures(played) == []
    assert handled(played) == ["A", "B", "A", "B", "A"]


def test_a_job_that_fails_inside_another_can_be_retried(play: Play, store: str) -> None:
    jobs = {"A": ["dispatch_sync:B", "ok"], "B": ["raise:E1", "ok"]}
    steps = ({"op": "dispatch", "job": "A"}, DRAIN, snapshot("failed"), {"op": "retry_failed"}, DRAIN)
    played = play(scenario(jobs, *steps), store)
    assert [failed["job"] for failed in dict(played["snapshots"])["failed"]["failed_jobs"]] == ["B", "A"]
    assert handled(played) == ["A", "B", "A", "B"]
    assert failures(played) == []


def test_a_workers_tries_hold_for_a_job_that_only_declares_max_exceptions(play: Play, store: str) -> None:
    played = play(alone(max_exceptions=3, script=["raise:E1"]), store)
    assert handled(played) == ["A"]
    assert failures(played) == [("A", "E1")]
