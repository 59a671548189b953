"""Chains, whose workers are killed at every point: between steps, and while a failure is caught."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import group
from celery.utils import uuid

if TYPE_CHECKING:
    from tests.chaos.stage import Stage
    from tests.chaos.sweep import Sweep

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180)]

PROMISE = "a chain's catch fires once, the rest never starts"


class Caught:
    """A chain whose failure is caught by a job that writes it down."""

    def __init__(self, stage: Stage, steps: Any, key: str) -> None:
        self.stage, self.key = stage, key
        catch = stage.app.tasks["callback"].s("catch", key)
        stage.bus.chain(steps).catch(catch).dispatch()

    def catches(self) -> list[Any]:
        return self.stage.written(self.key, "called")

    def names(self, kind: str) -> list[str]:
        return [step["name"] for step in self.stage.written(self.key, kind)]

    def close(self) -> None:
        """There is nothing to end."""


def expect_catches(sweep: Sweep, chain: Caught, expected: int) -> None:
    """The failure was caught as often as expected, by jobs of one id; a start that was killed is made up for."""
    entry, ids = sweep.entry, {call["id"] for call in chain.catches()}
    entry.expect(len(ids) == expected, f"{len(ids)} ids of callbacks")
    starts = sum(sweep.starts(f"callback:catch:{job_id}") for job_id in ids)
    entry.doubled += ["catch"] * (starts - expected)
    entry.lost += ["catch"] * (expected - len(ids))


@pytest.mark.promise(PROMISE)
@pytest.mark.short(2)
@pytest.mark.parametrize("tries", ["member", pytest.param("member3", marks=pytest.mark.slow), "member1"])
def test_a_failure_is_caught_once(stage: Stage, sweep: Sweep, tries: str) -> None:
    """Of steps that may start once only, one that was killed has failed: then it is that one which is caught."""

    def scenario() -> Caught:
        key = str(uuid())
        steps = [("a", "return"), ("b", "return"), ("c", "raise"), ("d", "return")]
        return Caught(stage, [stage.sig(tries, key, *step) for step in steps], key)

    chain = sweep.run(f"fails-{tries}", scenario, lambda chain: bool(chain.catches()))
    expect_catches(sweep, chain, 1)
    started, done = chain.names("started"), chain.names("done")
    sweep.entry.expect("d" not in started, "a step after the failed one has started")
    if tries != "member1":
        sweep.entry.expect(set(done) == {"a", "b"}, f"done: {done}")
    sweep.entry.judge()


@pytest.mark.promise(PROMISE)
@pytest.mark.short(2)
@pytest.mark.parametrize("tries", ["member1", pytest.param("member3", marks=pytest.mark.slow)])
def test_a_chain_goes_on_or_is_caught(stage: Stage, sweep: Sweep, tries: str) -> None:
    """Either all its steps are done, and nothing is caught, or a killed step is caught and nothing follows it."""

    def scenario() -> Caught:
        key = str(uuid())
        return Caught(stage, [stage.sig(tries, key, name) for name in "abc"], key)

    def is_over(chain: Caught) -> bool:
        return bool(chain.catches()) or "c" in chain.names("done")

    chain = sweep.run(f"succeeds-{tries}", scenario, is_over)
    caught = len({call["id"] for call in chain.catches()})
    done, failed = set(chain.names("done")), chain.names("failed")
    sweep.entry.expect(
        not (caught and "c" in done and failed != ["c"]), f"caught, and gone on: {failed} failed, {done} done"
    )
    sweep.entry.expect(caught <= (tries == "member1"), "caught, though a try was left")
    sweep.entry.expect(caught == len(failed), f"{failed} failed, {caught} caught")
    expect_catches(sweep, chain, caught)
    if not caught:
        sweep.entry.lost += sorted(set("abc") - done)
    sweep.entry.judge()


@pytest.mark.promise(PROMISE)
@pytest.mark.short(1)
def test_a_group_that_fails_together_is_caught_once(stage: Stage, sweep: Sweep) -> None:
    def scenario() -> Caught:
        key = str(uuid())
        members = group(stage.sig("member", key, f"b{number}", "raise") for number in range(3))
        return Caught(stage, [stage.sig("member", key, "a"), members, stage.sig("member", key, "c")], key)

    chain = sweep.run("group", scenario, lambda chain: {"b0", "b1", "b2"} <= set(chain.names("failed")))
    expect_catches(sweep, chain, 1)
    sweep.entry.expect("c" not in chain.names("started"), "the step after the group has started")
    sweep.entry.judge()


def three_steps(stage: Stage) -> Caught:
    """A chain of three jobs that may start once each."""
    key = str(uuid())
    return Caught(stage, [stage.sig("member1", key, name) for name in "abc"], key)


@pytest.mark.promise(PROMISE)
@pytest.mark.short(1)
def test_a_step_that_dies_when_the_next_one_is_sent_has_not_failed(stage: Stage, sweep: Sweep) -> None:
    """It may not start again, and the chain has gone on: to fail it would be to do both.

    Where it comes again before the next one has begun, it has failed, and the
    next one never begins. A run in which it died a moment too early, before its
    code was done, ends in that way as well.
    """

    def is_over(chain: Caught) -> bool:
        return bool(chain.catches()) or "c" in chain.names("done")

    chain = sweep.run("next is sent", lambda: three_steps(stage), is_over, at="publish:after")
    entry, caught = sweep.entry, bool(chain.catches())
    expect_catches(sweep, chain, int(caught))
    was_done = "a" if any(step.point == "done:a" for step in sweep.trail) else ""
    entry.expect_each(was_done if caught else "abc", chain.names("done"))
    entry.expect_each("a" if caught else "", chain.names("failed"))
    entry.judge()


@pytest.mark.promise(PROMISE)
@pytest.mark.short(1)
def test_a_chain_that_was_kept_from_going_on_does_so_when_its_failed_step_is_tried_again(
    stage: Stage, sweep: Sweep
) -> None:
    def is_over(chain: Caught) -> bool:
        if chain.catches() and not chain.names("done"):
            stage.bus.failed.retry("all")
        return "c" in chain.names("done")

    chain = sweep.run("first step dies", lambda: three_steps(stage), is_over, at="code:a")
    sweep.entry.expect_each("abc", chain.names("done"))
    has_started = any(step.killed and step.point == "code:a" for step in sweep.trail)
    expect_catches(sweep, chain, int(has_started))  # it may have been killed a moment before
    sweep.entry.judge()
