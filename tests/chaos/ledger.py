"""What the runs of the chaos suite found: for each promise the faults injected, what was lost and what was doubled."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

PROPERTY = "chaos"


@dataclass
class Entry:
    """One run: what was done to it, and what came of it."""

    promise: str
    place: str
    seed: str
    faults: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def fault(self, kind: str, count: int = 1) -> None:
        """Note faults of a kind that were injected."""
        self.faults[kind] += count

    def expect_each(self, names: Iterable[str], seen: Iterable[str]) -> None:
        """Note which of ``names`` are missing in what was seen, and which were seen twice or not expected."""
        counts, expected = Counter(seen), set(names)
        self.lost += sorted(expected - set(counts))
        self.doubled += sorted(name for name, count in counts.items() if count > 1 or name not in expected)

    def expect(self, holds: bool, what: str) -> None:
        """Note that something promised does not hold."""
        if not holds:
            self.broken.append(what)

    def judge(self) -> None:
        """Fail where anything was lost, doubled or broken."""
        found = {name: getattr(self, name) for name in ("lost", "doubled", "broken") if getattr(self, name)}
        assert not found, f"{self.promise}, on {self.place}, seed {self.seed}, after {dict(self.faults)}: {found}"

    def as_data(self) -> dict[str, Any]:
        return {**vars(self), "faults": dict(self.faults)}


def table(entries: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table of all runs, one line for each promise and place."""
    lines = ["| promise | broker × store | runs | faults | lost | doubled | broken |", "|---|---|--:|---|--:|--:|--:|"]
    for promise, place in dict.fromkeys((entry["promise"], entry["place"]) for entry in entries):
        of_it = [entry for entry in entries if (entry["promise"], entry["place"]) == (promise, place)]
        faults: Counter[str] = Counter()
        for entry in of_it:
            faults.update(entry["faults"])
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())) or "none"
        sums = [sum(len(entry[name]) for entry in of_it) for name in ("lost", "doubled", "broken")]
        lines.append(f"| {promise} | {place} | {len(of_it)} | {told} | " + " | ".join(map(str, sums)) + " |")
    return lines


def write(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
