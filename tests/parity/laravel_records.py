"""What the model of Laravel keeps: queued jobs, attempts and batches."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.parity.scenario import Callback

if TYPE_CHECKING:
    from tests.parity.laravel import Laravel


@dataclass(eq=False)
class Job:
    """A queued job; ``index`` is its place in its batch, ``rest`` what follows it in its
    chain, ``lock`` the unique lock that it took when it was dispatched,
    ``came_again`` that its worker was lost since it was last queued, ``waits`` how
    often it has waited for that lock, or for a copy of it to end, ``slots`` the limits
    that keep a start for it, ``turn`` how often it was put back, ``held_until`` when
    the lease of an attempt ends that has lost its worker."""

    label: str
    queue: str = "default"
    attempts: int = 0
    exceptions: int = 0
    deadline: float | None = None
    batch: Any = None
    index: int | None = None
    rest: list[Job] = field(default_factory=list)
    catch: Sequence[Callback] = ()
    delay: float = 0
    lock: tuple[str, ...] | None = None
    came_again: bool = False
    waits: int = 0
    turn: int = 0
    held_until: float = 0.0
    is_over: bool = False
    slots: set[Hashable] = field(default_factory=set)


@dataclass(eq=False)
class Run:
    """One attempt; the voice of the job that runs in it."""

    stage: Laravel
    job: Job
    attempts: int
    is_sync: bool = False
    failure: BaseException | None = None
    is_failed: bool = False
    is_deleted: bool = False
    released: float | None = None
    counts: bool = True
    entered: bool = False
    lock: tuple[str, ...] | None = None
    locks: list[tuple[str, ...]] = field(default_factory=list)
    slots: set[Hashable] | None = None

    def release(self, seconds: float) -> None:
        self.stage.said_release(self, seconds)

    def fail(self, error: Exception | None) -> None:
        self.stage.said_fail(self, error)

    def delete(self) -> None:
        self.stage.said_delete(self)

    def cancel_batch(self) -> None:
        self.stage.cancel_batch(self.job.batch.name)

    def add_to_batch(self, labels: Sequence[str]) -> None:
        self.stage.add_to_batch(self.job.batch.name, labels)

    def batch_shape(self) -> dict[str, Any]:
        return self.stage.batch_shape(self.job.batch.name)

    def set_note(self, note: str) -> None:
        """Laravel's next attempt, and its ``failed()``, see a fresh instance."""


@dataclass(eq=False)
class Batch:
    """A row of Laravel's table of batches."""

    name: str
    callbacks: Mapping[str, Sequence[Callback]]
    allow_failures: bool
    queue: str | None
    total: int = 0
    pending: int = 0
    failed: int = 0
    failed_jobs: list[Job] = field(default_factory=list)
    is_cancelled: bool = False
    is_finished: bool = False

    def shape(self) -> dict[str, Any]:
        done = self.total - self.pending
        return {
            "total": self.total,
            "pending": self.pending,
            "failed": self.failed,
            "failed_job_ids": len(self.failed_jobs),
            "processed": done,
            "progress": int(100 * done / self.total + 0.5) if self.total else 0,
            "cancelled": self.is_cancelled,
            "finished": self.is_finished,
        }
