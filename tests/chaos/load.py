"""Jobs of every kind that a store or a broker has a part in, and what must have come of each."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from celery.utils import uuid

from celery_laravel.testing.processes import wait_until
from tests.chaos.stage import LEASE
from tests.chaos.test_batches import Watched
from tests.chaos.test_chains import Caught
from tests.chaos.test_locks import overlaps

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.ledger import Entry
    from tests.chaos.stage import Stage

COUNTED = {"member1", "member3", "sour"}
"""Jobs whose starts are counted, so that a copy of one that has ended is known."""

MIXED = ("member", "member3")

FAILING = 4 + 2 + 2
"""Jobs of a load that fail: in a batch, in chains, alone."""


class Load:
    """Batches, packs, chains, and jobs with tries or locks, sent at once."""

    def __init__(self, stage: Stage, size: int = 12) -> None:
        self.stage, self.key, self.locks = stage, str(uuid()), [str(uuid()) for _ in range(3)]
        self.unique = [str(uuid()) for _ in range(size // 2)]
        self.scripted: dict[str, list[int]] = {}
        self.failed_before = stage.bus.failed.count()
        self._send_held()
        good = [(MIXED[number % 2], f"good{number}", "return", 0.3) for number in range(size)]
        bad = [(MIXED[number % 2], f"bad{number}", "raise" if number < 4 else "return", 0.2) for number in range(size)]
        packed = [("member", f"packed{number}", "return", 0.1) for number in range(size * 2)]
        self.batches = [
            (Watched(stage, good, is_watched=False), good),
            (Watched(stage, bad, is_watched=False), bad),
            (Watched(stage, packed, is_watched=False, pack=size), packed),
        ]
        self.chains = [self._chain(task, last) for task in MIXED for last in ("return", "raise")]
        self._send_alone(size)

    def _send_held(self) -> None:
        """Jobs that wait for a word of the test's: one returns then, one puts itself back."""
        for script, attempts in ((["wait+return:x"], [1]), (["wait+release:0.1", "return:x"], [1, 2])):
            key = str(uuid())
            self.scripted[key] = attempts
            self.stage.app.tasks["tries3"].delay(key, script)

    def _chain(self, task: str, last: str) -> tuple[Caught, str]:
        stage, key = self.stage, str(uuid())
        steps = [("a", "return", 0.3), ("b", "return", 0.3), ("c", last, 0.1), ("d", "return", 0.1)]
        return Caught(stage, [stage.sig(task, key, *step) for step in steps], key), last

    def _send_alone(self, size: int) -> None:
        stage = self.stage
        for number in range(size):
            stage.sig("member3", self.key, f"{number}", "raise" if number < 2 else "return", 0.2).apply_async()
            stage.sig("limited", self.key, f"{number}").apply_async()
            stage.sig("overlap", self.locks[0], f"{number}", 0.1).apply_async()
        for number in range(size // 2):
            stage.sig("patient", self.locks[1], f"{number}").apply_async()
            stage.sig("loose", self.locks[2], f"{number}").apply_async()
            stage.sig("once", self.unique[number], "x", 0.2).apply_async()

    def wait_until_held(self) -> None:
        """Wait until the jobs that wait for a word run."""
        wait_until(lambda: all(self.stage.written(key, "runs") for key in self.scripted), 30)

    def let_go(self) -> None:
        """Give those jobs the word."""
        for key in self.scripted:
            self.stage.record.client.rpush(f"record:{key}:go", "go")

    def begun(self) -> Counter[str]:
        """How many jobs that may not start without the store have begun so far, by their kind."""
        begun: Counter[str] = Counter()
        for key in (*self.locks, *self.unique):
            begun["locked"] += sum(edge[0] == "begin" for edge in self.stage.written(key, "edges"))
        begun["counted"] = len(self.stage.written(self.key, "started"))
        begun["limited"] = len(self.stage.written(self.key, "starts"))
        return begun

    def is_over(self) -> bool:
        """Whether everything has come to its end, so far as one can see from outside."""
        return not any(self._missing().values())

    def _missing(self) -> dict[str, set[str]]:
        stage = self.stage
        missing = {f"batch {w.key}": self._kinds(members) - set(w.called()) for w, members in self.batches}
        for watched, members in self.batches:
            ends = {step["name"] for kind in ("done", "failed") for step in stage.written(watched.key, kind)}
            missing[f"members of {watched.key}"] = {name for _, name, *_ in members} - ends
        for chain, last in self.chains:
            ends = set(chain.names("done")) | {call["kind"] for call in chain.catches()}
            missing[f"chain {chain.key}"] = (
                set()
                if "catch" in ends
                else {"abcd" if last == "return" else "catch"} - ({"abcd"} if ends >= set("abcd") else set())
            )
        ends = {step["name"] for kind in ("done", "failed") for step in stage.written(self.key, kind)}
        missing["alone"] = {f"{number}" for number in range(len(self.unique) * 2)} - ends
        starts = {start[0] for start in stage.written(self.key, "starts")}
        missing["limited"] = {f"{number}" for number in range(len(self.unique) * 2)} - starts
        for key, number in self._locked():
            ends = {edge[1] for edge in stage.written(key, "edges") if edge[0] == "end"}
            missing[f"locked {key}"] = {f"{number - len(ends)} of {number}"} if len(ends) < number else set()
        for key, attempts in self.scripted.items():
            runs = {run["attempt"] for run in stage.written(key, "runs")}
            missing[f"scripted {key}"] = set(map(str, set(attempts) - runs))
        return missing

    def _locked(self) -> list[tuple[str, int]]:
        size = len(self.unique)
        return [(self.locks[0], size * 2), *((key, size) for key in self.locks[1:]), *((key, 1) for key in self.unique)]

    def _kinds(self, members: list[tuple[Any, ...]]) -> set[str]:
        return {"catch", "finally"} if any("raise" in member for member in members) else {"then", "finally"}

    def expect(self, entry: Entry, *, may_repeat: Callable[[str], bool] = lambda task: False) -> None:
        """Note what was lost, doubled or broken; ``may_repeat`` says of a task whether its code may have run again."""
        stage = self.stage
        for what, names in self._missing().items():
            entry.lost += sorted(f"{what}: {name}" for name in names)
        for watched, members in self.batches:
            self._expect_members(entry, watched.key, members, may_repeat)
            calls = watched.called()
            entry.doubled += [f"{kind} of a batch" for kind in set(calls) if calls.count(kind) > 1]
            entry.expect(set(calls) <= self._kinds(members), f"called {calls}")
            batch, failures = watched.fresh(), sum("raise" in member for member in members)
            counts = (batch.total_jobs, batch.pending_jobs, batch.failed_jobs, batch.skipped_jobs)
            entry.expect(counts == (len(members), 0, failures, 0), f"counts {counts}")
        for chain, last in self.chains:
            self._expect_chain(entry, chain, last)
        alone = [
            ("member3", f"{number}", "raise" if number < 2 else "return") for number in range(len(self.unique) * 2)
        ]
        self._expect_members(entry, self.key, alone, may_repeat)
        for key, number in self._locked():
            edges = stage.written(key, "edges")
            entry.doubled += overlaps(edges)
            ends = sum(edge[0] == "end" for edge in edges)
            entry.doubled += [f"locked jobs of {key}"] * (max(0, ends - number) if not may_repeat("overlap") else 0)
        records = stage.bus.failed.count() - self.failed_before
        entry.expect(records == FAILING, f"{records} records of {FAILING} failures")
        attempts = [attempt for key in self.locks[1:] for attempt in stage.written(key, "attempts")]
        entry.expect(all(attempt == 1 for _, attempt in attempts), f"waiting used up attempts: {attempts}")
        for key, expected in self.scripted.items():
            runs = [run["attempt"] for run in stage.written(key, "runs")]
            entry.expect(runs == expected, f"ran as {runs}, not {expected}")
        try:
            wait_until(lambda: not stage.bus.locks.all(), LEASE * 4)  # those that could not be freed end by themselves
        except TimeoutError:
            entry.expect(False, f"locks are left: {stage.bus.locks.all()}")

    def _expect_members(
        self, entry: Entry, key: str, members: list[tuple[Any, ...]], may_repeat: Callable[[str], bool]
    ) -> None:
        kinds = ("started", "done", "failed")
        counts = {kind: Counter(step["name"] for step in self.stage.written(key, kind)) for kind in kinds}
        for task, name, what, *_ in members:
            starts, done, failed = (counts[kind][name] for kind in kinds)
            if not may_repeat(task):
                wanted = (3 if task == "member3" else 1, 0, 1) if what == "raise" else (1, 1, 0)
                entry.expect((starts, done, failed) == wanted, f"{task} {name}: {(starts, done, failed)}, not {wanted}")
            entry.doubled += [f"the end of {name}"] * bool(done and failed)

    def _expect_chain(self, entry: Entry, chain: Caught, last: str) -> None:
        ids = {call["id"] for call in chain.catches()}
        entry.doubled += ["catch of a chain"] * max(0, len(chain.catches()) - 1)
        done = set(chain.names("done"))
        entry.expect(not (ids and "d" in chain.names("started")), f"caught, and gone on: {done}")
        if last == "return":
            entry.expect(not ids, f"a chain without a failure was caught: {chain.names('failed')}, {done} done")
