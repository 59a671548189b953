from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_laravel.attempt.outcome import Deleted, Failed, Released, Succeeded
from celery_laravel.attempt.retry_policy import (
    Counts,
    Limits,
    Verdict,
    backoff_delay,
    decide,
    may_start,
    to_seconds,
    to_timestamp,
)

NOW = 1000.0
ERROR = OSError("raised")
FAILURE = ValueError("said")

limits = st.builds(
    Limits,
    tries=st.none() | st.integers(0, 6),
    max_exceptions=st.none() | st.integers(1, 6),
    deadline=st.none() | st.floats(NOW - 5, NOW + 5),
    fail_on_timeout=st.booleans(),
)
counts = st.builds(Counts, attempt=st.integers(1, 8), exceptions=st.integers(0, 8))
verdicts = st.builds(
    Verdict,
    failure=st.none() | st.just(FAILURE),
    deleted=st.booleans(),
    release=st.none() | st.builds(Released, delay=st.floats(0, 100), counts=st.booleans()),
)
errors = st.none() | st.just(ERROR)


def decided(limits: Limits, counts: Counts, verdict: Verdict, error: Any, **more: Any) -> Any:
    more = {"value": "value", "now": NOW, "backoff": lambda attempt, error: 7.0, **more}
    return decide(limits, counts, verdict, error=error, **more)


@given(limits, counts, verdicts, errors, st.booleans())
def test_an_attempt_has_exactly_one_outcome_and_what_is_final_is_final(
    limits: Limits, counts: Counts, verdict: Verdict, error: Any, timed_out: bool
) -> None:
    outcome = decided(limits, counts, verdict, error, timed_out=timed_out and error is not None)
    assert isinstance(outcome, (Succeeded, Deleted, Released, Failed))
    if verdict.failure is not None:
        assert outcome == Failed(FAILURE)
    elif verdict.deleted:
        assert outcome == Deleted("value")
    elif error is not None:
        assert isinstance(outcome, (Failed, Released))
        assert outcome.error is ERROR
    else:
        assert outcome == (verdict.release or Succeeded("value"))


@given(limits, st.lists(st.tuples(verdicts, errors), min_size=20, max_size=20), st.floats(0, 2))
def test_a_job_never_starts_more_often_than_its_limits_allow(
    limits: Limits, script: list[tuple[Verdict, Any]], pace: float
) -> None:
    """Whatever an attempt says or raises, and however long it takes."""
    started, exceptions, attempts, now = 0, 0, 0, NOW
    for verdict, error in script:
        if not may_start(limits, attempts + 1, now=now):
            break
        started += 1
        outcome = decided(limits, Counts(attempts + 1, exceptions), verdict, error, now=now)
        if not isinstance(outcome, Released):
            break
        attempts += outcome.counts
        exceptions += outcome.error is not None
        now += pace
        if limits.max_exceptions is not None:
            assert exceptions < limits.max_exceptions
    if limits.deadline is None and limits.tries:
        free = sum(verdict.release is not None and not verdict.release.counts for verdict, _ in script)
        assert started <= limits.tries + free
        assert attempts <= limits.tries
    if limits.deadline is not None and limits.deadline < NOW:
        assert started == 0


@given(limits, counts, st.floats(0, 100))
def test_an_exception_after_a_release_counts_and_borrows_its_delay(
    limits: Limits, counts: Counts, delay: float
) -> None:
    verdict = Verdict(release=Released(delay, counts=False))
    outcome = decided(limits, counts, verdict, ERROR)
    assert outcome in (Failed(ERROR), Released(delay, counts=True, error=ERROR))


@given(limits, counts, errors)
def test_backoff_is_asked_only_when_the_job_goes_on(limits: Limits, counts: Counts, error: Any) -> None:
    asked: list[int] = []

    def backoff(attempt: int, error: BaseException) -> float:
        asked.append(attempt)
        return 3.0

    outcome = decided(limits, counts, Verdict(), error, backoff=backoff)
    assert asked == ([counts.attempt] if isinstance(outcome, Released) else [])


@given(counts, st.floats(NOW + 0.001, NOW + 5), st.none() | st.integers(0, 3))
def test_a_deadline_takes_the_place_of_tries(counts: Counts, deadline: float, tries: int | None) -> None:
    limits = Limits(tries=tries, deadline=deadline)
    assert may_start(limits, counts.attempt, now=NOW)
    assert isinstance(decided(limits, counts, Verdict(), ERROR), Released)
    assert isinstance(decided(limits, counts, Verdict(), ERROR, now=deadline), Failed)
    assert not may_start(limits, counts.attempt, now=deadline + 0.001)


TABLE: list[tuple[str, Limits, Counts, Verdict, Any, Any]] = [
    ("returns", Limits(3), Counts(1), Verdict(), None, Succeeded("value")),
    ("raises with tries left", Limits(3), Counts(2), Verdict(), ERROR, Released(7.0, error=ERROR)),
    ("raises on the last try", Limits(3), Counts(3), Verdict(), ERROR, Failed(ERROR)),
    ("raises without a limit", Limits(0), Counts(99), Verdict(), ERROR, Released(7.0, error=ERROR)),
    ("raises, only Celery retries", Limits(None), Counts(1), Verdict(), ERROR, Failed(ERROR)),
    ("max_exceptions alone", Limits(max_exceptions=2), Counts(9, 0), Verdict(), ERROR, Released(7.0, error=ERROR)),
    ("max_exceptions reached", Limits(9, max_exceptions=2), Counts(2, 1), Verdict(), ERROR, Failed(ERROR)),
    ("max_exceptions and a deadline", Limits(None, 1, NOW + 9), Counts(1), Verdict(), ERROR, Failed(ERROR)),
    ("release", Limits(3), Counts(1), Verdict(release=Released(5.0)), None, Released(5.0)),
    ("release on the last try", Limits(3), Counts(3), Verdict(release=Released(5.0)), None, Released(5.0)),
    ("fail", Limits(3), Counts(1), Verdict(FAILURE), None, Failed(FAILURE)),
    ("fail, then release", Limits(3), Counts(1), Verdict(FAILURE, release=Released(5.0)), None, Failed(FAILURE)),
    ("fail, then raise", Limits(3), Counts(1), Verdict(FAILURE), ERROR, Failed(FAILURE)),
    ("delete, then release", Limits(3), Counts(1), Verdict(deleted=True, release=Released()), None, Deleted("value")),
    ("delete, then raise", Limits(3), Counts(1), Verdict(deleted=True), ERROR, Deleted("value")),
    ("release, then raise", Limits(3), Counts(1), Verdict(release=Released(5.0)), ERROR, Released(5.0, error=ERROR)),
    ("release, then raise, last try", Limits(3), Counts(3), Verdict(release=Released(5.0)), ERROR, Failed(ERROR)),
]


@pytest.mark.parametrize(
    ("limits", "counts", "verdict", "error", "outcome"), [c[1:] for c in TABLE], ids=[c[0] for c in TABLE]
)
def test_the_table_of_endings(limits: Limits, counts: Counts, verdict: Verdict, error: Any, outcome: Any) -> None:
    assert decided(limits, counts, verdict, error) == outcome


@pytest.mark.parametrize(("fails", "timed_out"), [(True, True), (False, True), (True, False)])
def test_a_timeout_fails_at_once_only_if_asked_to(fails: bool, timed_out: bool) -> None:
    outcome = decided(Limits(9, fail_on_timeout=fails), Counts(1), Verdict(), ERROR, timed_out=timed_out)
    assert isinstance(outcome, Failed if fails and timed_out else Released)


@pytest.mark.parametrize(
    ("backoff", "attempt", "delay"),
    [
        (None, 1, 0.0),
        (5, 1, 5.0),
        (5, 9, 5.0),
        (timedelta(minutes=1), 1, 60.0),
        ([1, 5, 10], 1, 1.0),
        ([1, 5, 10], 3, 10.0),
        ([1, 5, 10], 4, 10.0),
        ((timedelta(seconds=2),), 7, 2.0),
    ],
)
def test_backoff(backoff: Any, attempt: int, delay: float) -> None:
    assert backoff_delay(backoff, attempt) == delay


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5), st.integers(1, 20))
def test_a_sequences_last_value_serves_every_later_attempt(delays: list[float], attempt: int) -> None:
    assert backoff_delay(delays, attempt) == (delays[attempt - 1] if attempt <= len(delays) else delays[-1])


def test_instants_and_durations_in_seconds() -> None:
    assert to_seconds(timedelta(minutes=2)) == 120.0
    assert to_timestamp(timedelta(seconds=5), now=NOW) == NOW + 5
    assert to_timestamp(datetime(1970, 1, 1, 0, 1, tzinfo=timezone.utc), now=NOW) == 60.0
