"""Runs of which each is killed at another point: from the first call of the store to the last message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from tests.chaos.ledger import Entry
    from tests.chaos.plan import Step
    from tests.chaos.stage import Stage

_points: dict[tuple[int, str], Sequence[int]] = {}
"""The points of a scenario on a stage, in the order in which they are taken; counted once, where nobody is killed."""


class Sweep:
    """One run of a scenario, killed at the point that its number and its dice say."""

    def __init__(self, stage: Stage, entry: Entry, how: str, number: int, rng: random.Random) -> None:
        self.stage, self.entry, self.how = stage, entry, how
        self._number, self._rng = number, rng
        self.trail: Sequence[Step] = ()

    def run(
        self, name: str, scenario: Callable[[], Any], is_over: Callable[[Any], bool], *, at: str | None = None
    ) -> Any:
        """Carry a scenario out, killed where no earlier run was, or first comes to ``at``; return what it gave.

        ``is_over`` is asked about that until it is true, and all is quiet; it
        is closed then. The runs of a seed take the points in an order that is
        the seed's, from the first again when all have been come to.
        """
        stage = self.stage
        points = _points.get((id(stage), name))
        if points is None and at is not None:
            self._carry_out(scenario, is_over, 0)
            points = _points[id(stage), name] = [[step.point for step in self.trail].index(at) + 1]
        if points is None:
            self._carry_out(scenario, is_over, 0)
            points = _points[id(stage), name] = self._rng.sample(range(1, len(self.trail) + 1), len(self.trail))
        return self._carry_out(scenario, is_over, points[self._number % len(points)])

    def _carry_out(self, scenario: Callable[[], Any], is_over: Callable[[Any], bool], at: int) -> Any:
        stage = self.stage
        stage.start()
        stage.plan.begin(at, self.how)
        subject = scenario()

        def over() -> bool:
            if not stage.workers[0].is_running:
                stage.start()
            return is_over(subject) and stage.is_quiet()

        try:
            wait_until(over, 90, message=f"the end of a scenario that was killed at point {at}", interval=0.1)
        finally:
            self.trail = stage.plan.trail()
            stage.plan.end()
            if at:
                self._note_faults()
            subject.close()
        return subject

    def _note_faults(self) -> None:
        for step in self.trail:
            if step.killed:
                self.entry.fault(f"{self.how} killed")
                self.entry.seed += f", at {step.point}"

    def starts(self, point: str) -> int:
        """How often a job's code came to a point, less the starts whose process was killed before they were settled.

        At least once is what is promised of code: a start that was never
        settled does not count, and another one takes its place.
        """
        killed = next((step for step in self.trail if step.killed), None)
        count = 0
        for index, step in enumerate(self.trail):
            if step.point != point:
                continue
            later = self.trail[index + 1 :]
            is_settled = any(other.pid == step.pid and other.point == "store.settle:after" for other in later)
            count += is_settled or killed is None or not self._died(step, killed)
        return count

    def _died(self, step: Step, killed: Step) -> bool:
        """Whether a process died in the kill: that one alone, or all of its worker, in the moments that took."""
        return step.worker == killed.worker if self.how == "worker" else step.pid == killed.pid
