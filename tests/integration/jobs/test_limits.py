"""Limits in real workers that are killed: never more starts in a window than it allows, and every job starts."""

from __future__ import annotations

import os
import signal
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid

from celery_laravel.testing.processes import wait_until
from tests.support import limits_app
from tests.support.limits_app import ALLOWED, SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

APP = "tests.support.limits_app"
SHORT_LEASES = {"JOBS_LEASE": "3"}
A_MICROSECOND = 2e-6


class Limits:
    """The jobs of one limit, and what they and their store have written down."""

    def __init__(self, lab: Lab) -> None:
        limits_app.declare(lab.app)
        self.lab, self.key = lab, uuid()

    def send(self, count: int, how: str = "") -> list[Any]:
        return [self.lab.app.tasks["limited"].delay(self.key, how) for _ in range(count)]

    def starts(self) -> list[dict[str, Any]]:
        return self.lab.written(self.key, "starts")

    def answers(self) -> list[dict[str, Any]]:
        return self.lab.written(self.key, "answers")

    def wait_for_starts_of(self, jobs: Sequence[Any]) -> None:
        ids = {job.id for job in jobs}
        wait_until(lambda: ids == {start["id"] for start in self.starts()}, 60, message="a start of every job")

    def check(self) -> None:
        """No window granted more than it allows, and no job started without a grant within its window."""
        granted = [answer for answer in self.answers() if answer["granted"]]
        counts = Counter(answer["window"] for answer in granted)
        assert max(counts.values()) <= ALLOWED, counts
        assert all(later - earlier >= SECONDS - A_MICROSECOND for earlier, later in pairwise(sorted(counts))), counts
        assert all(answer["asked_at"] < answer["window"] + SECONDS for answer in granted)
        self._check_from_outside(granted, sorted(counts))

    def _check_from_outside(self, granted: list[dict[str, Any]], windows: list[float]) -> None:
        """The same by the clock outside, whatever the store says of its grants.

        A start was granted at some instant between the question and the
        beginning of the code; counted are those for which both lie in the span.
        """
        passages = []
        for start in self.starts():
            asked = [grant["asked_at"] for grant in granted if grant["id"] == start["id"]]
            passages.append((max(at for at in asked if at <= start["at"]), start["at"]))

        def within(begin: float) -> int:
            return sum(begin <= asked and at < begin + SECONDS for asked, at in passages)

        assert all(within(window) <= ALLOWED for window in windows)
        assert all(within(asked) <= 2 * ALLOWED for asked, _ in passages)


@pytest.fixture
def limits(make_lab: MakeLab) -> Limits:
    return Limits(make_lab())


def test_jobs_come_back_at_the_start_that_is_kept_for_them(limits: Limits) -> None:
    with limits.lab.worker(app=APP, concurrency=4):
        jobs = limits.send(5 * ALLOWED)
        limits.wait_for_starts_of(jobs)
    limits.check()
    kept: dict[str, float] = {}
    for answer in limits.answers():
        promised = kept.pop(answer["id"], None)
        is_late = promised is not None and answer["asked_at"] >= promised + SECONDS
        if promised is not None and not is_late and answer["granted"]:
            assert answer["window"] == pytest.approx(promised, abs=A_MICROSECOND)
        elif promised is not None:  # a late one has used its start, or it was late itself
            assert answer["window"] >= promised - A_MICROSECOND
        if not answer["granted"]:
            kept[answer["id"]] = answer["window"]
    assert kept == {}


def test_no_window_has_more_starts_than_its_limit_whatever_dies(limits: Limits) -> None:
    with limits.lab.worker(app=APP, concurrency=4, env=SHORT_LEASES) as worker:
        jobs = limits.send(8 * ALLOWED)
        for round_ in range(1, 4):
            wait_until(lambda: len(limits.starts()) >= round_ * ALLOWED, 60)  # noqa: B023  called at once
            os.kill(worker.children()[-1], signal.SIGKILL)
        wait_until(lambda: len(limits.starts()) >= 4 * ALLOWED, 60)
        worker.kill()
        worker.restart()
        limits.wait_for_starts_of(jobs)
    limits.check()


def test_a_job_killed_in_its_code_stays_counted_and_is_counted_again_when_it_comes_back(limits: Limits) -> None:
    with limits.lab.worker(app=APP, concurrency=1, env=SHORT_LEASES) as worker:
        job = limits.send(1, "wait")
        limits.wait_for_starts_of(job)
        worker.kill()
        worker.restart()
        wait_until(lambda: len(limits.starts()) == 2, 60)
        limits.lab.go_on(limits.key)
        assert job[0].get(timeout=30) == "done"
    assert [answer["granted"] for answer in limits.answers()] == [True, True]
    limits.check()
