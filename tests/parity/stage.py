"""What every player of a scenario shares: its steps, its workers, its clock and its log."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.parity.errors import name_of
from tests.parity.performing import Performer
from tests.parity.scenario import Callback, Scenario, ScenarioError, Tree
from tests.parity.workers import Worker

LONGEST_DRAIN = 3600
MOST_JOBS = 60


class Stage(Performer):
    """Plays a scenario and logs what happens."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.batch_ids: list[str] = []
        self.worker: Worker | None = None
        self._workers: list[Worker] = []

    def play(self) -> dict[str, Any]:
        """Take the steps, and say how things stand at the end."""
        try:
            for step in self.scenario.steps:
                getattr(self, f"_step_{step['op']}")(**{key: value for key, value in step.items() if key != "op"})
                self.serve_callbacks()
            return self.state()
        finally:
            log, self.log = self.log, []  # what workers do that are unwound is no part of it
            for worker in self._workers:
                worker.end()
            self.log = log

    # -- what a queue system does

    @abstractmethod
    def dispatch_chain(
        self, labels: Sequence[str], catch: Sequence[Callback], delay: float, queue: str | None
    ) -> None: ...

    @abstractmethod
    def dispatch_batch(
        self,
        name: str,
        jobs: Sequence[Tree],
        callbacks: Mapping[str, Sequence[Callback]],
        *,
        allow_failures: bool,
        queue: str | None,
    ) -> None: ...

    @abstractmethod
    def retry_batch(self, name: str) -> None: ...

    @abstractmethod
    def retry_failed(self, label: str | None) -> None: ...

    @abstractmethod
    def set_worker(self, tries: int, backoff: float) -> None:
        """Let these options of the worker hold from now on."""

    @abstractmethod
    def work_one(self, queues: Sequence[str]) -> bool:
        """Take one job and run it; False if none is available."""

    @abstractmethod
    def pick_up_and_crash(self, queues: Sequence[str]) -> None:
        """Take one job as if to run it, and vanish before anything of it runs."""

    @abstractmethod
    def worker_died(self) -> None:
        """What the death of the worker whose turn it is entails; called in its thread, which stands still then."""

    def enter_thread(self) -> None:
        """Called at the start of a worker's thread."""

    @abstractmethod
    def serve_callbacks(self) -> None:
        """Call the callbacks that have been queued, if they are jobs of their own."""

    @abstractmethod
    def next_due(self, queues: Sequence[str]) -> float | None: ...

    @abstractmethod
    def failed_jobs(self) -> list[dict[str, Any]]: ...

    @abstractmethod
    def batch_shape(self, name: str) -> dict[str, Any]: ...

    @abstractmethod
    def locks(self) -> list[str]:
        """The unique and overlap locks that are held, as ``kind|class|id``, sorted."""

    @abstractmethod
    def acquire_overlap(self, label: str) -> None:
        """Let another process, which lives on, take the lock that the job's WithoutOverlapping uses."""

    @abstractmethod
    def release_overlap(self, label: str) -> None:
        """Let that process free it."""

    @abstractmethod
    def queue_lengths(self, name: str) -> dict[str, int]: ...

    def state(self) -> dict[str, Any]:
        return {
            "failed_jobs": self.failed_jobs(),
            "batches": {name: self.batch_shape(name) for name in self.batch_ids},
            "locks": self.locks(),
            "queues": {name: self.queue_lengths(name) for name in self.scenario.queues},
        }

    # -- steps

    def _step_dispatch(self, job: str, delay: float | None = None, queue: str | None = None) -> None:
        self.dispatch(job, delay=delay, queue=queue)

    def _step_dispatch_sync(self, job: str) -> None:
        try:
            self.dispatch_sync(job)
        except Exception as error:
            self.note("raised_to_caller", type=name_of(error))
        else:
            self.note("returned_to_caller")

    def _step_chain(
        self, jobs: Sequence[str], catch: Sequence[Any] = (), delay: float = 0, queue: str | None = None
    ) -> None:
        self.dispatch_chain(jobs, [Callback.read(given) for given in catch], delay or 0, queue)

    def _step_batch(self, jobs: Sequence[Tree], **given: Any) -> None:
        name = given["id"]
        callbacks = {kind: [Callback.read(c) for c in given.get(kind) or ()] for kind in ("then", "catch", "finally")}
        self.batch_ids.append(name)
        self.dispatch_batch(
            name, jobs, callbacks, allow_failures=bool(given.get("allow_failures")), queue=given.get("queue")
        )
        self.note("batch_dispatched", batch=self.batch_shape(name))

    def _step_batch_add(self, batch: str, jobs: Sequence[Tree]) -> None:
        try:
            self.add_to_batch(batch, jobs)
        except Exception as error:
            self.note("batch_add_refused", type=name_of(error))

    def _step_batch_cancel(self, batch: str) -> None:
        self.cancel_batch(batch)

    def _step_work(
        self,
        queue: str = "default",
        tries: int = 1,
        backoff: float = 0,
        max_jobs: int | None = None,
        worker: str | None = None,
    ) -> None:
        hand = Worker(worker or "w1", queue.split(","), tries, backoff, max_jobs)
        self._workers.append(hand)
        self._turn_of(hand, lambda: hand.start(lambda: self._work(hand)))

    def _work(self, worker: Worker) -> None:
        self.enter_thread()
        done = 0
        while worker.max_jobs is None or done < worker.max_jobs:
            if done >= MOST_JOBS:
                self.note("work_limit")
                return
            if not self.work_one(worker.queues):
                return
            self.serve_callbacks()
            done += 1

    def _turn_of(self, worker: Worker, run: Callable[[], None]) -> None:
        """Let a worker run until it ends or stands still, with its own options."""
        self.set_worker(worker.tries, worker.backoff)
        self.worker = worker
        try:
            run()
        finally:
            self.worker = None

    def _step_resume(self, worker: str) -> None:
        hand = next(hand for hand in reversed(self._workers) if hand.name == worker and hand.is_paused)
        hand.is_paused, hand.max_jobs = False, None
        self._turn_of(hand, hand.go_on)

    def pause(self) -> None:
        worker = self._present_worker("pause")
        worker.is_paused = True
        self.note("worker_paused", worker=worker.name)
        worker.stand_still()

    def crash(self) -> None:
        worker = self._present_worker("crash")
        self.note("worker_crashed", worker=worker.name)
        self.worker_died()
        worker.stand_still()
        raise AssertionError("a worker that has crashed was resumed")

    def _present_worker(self, action: str) -> Worker:
        if self.worker is None:
            raise ScenarioError(f"{action!r} is for jobs that a worker runs")
        return self.worker

    def _step_pop_and_crash(self, queue: str = "default") -> None:
        worker = Worker("popper", queue.split(","), 1, 0, 1)
        self._workers.append(worker)
        self._turn_of(worker, lambda: worker.start(lambda: self._pop_and_crash(worker)))

    def _pop_and_crash(self, worker: Worker) -> None:
        self.enter_thread()
        self.pick_up_and_crash(worker.queues)

    def _step_work_daemon(self, **options: Any) -> None:
        self._step_work(**options)

    def _step_drain(self, queue: str = "default", **options: Any) -> None:
        end = self.now + LONGEST_DRAIN
        self._step_work(queue, **options)
        while (due := self.next_due(queue.split(","))) is not None and self.now < due <= end:
            self.move_to(due)
            self._step_work(queue, **options)

    def _step_advance(self, seconds: float) -> None:
        self.move_to(self.now + seconds)

    def _step_acquire_overlap(self, job: str) -> None:
        self.acquire_overlap(job)

    def _step_release_overlap(self, job: str) -> None:
        self.release_overlap(job)

    def _step_retry_failed(self, job: str | None = None) -> None:
        self.retry_failed(job)

    def _step_retry_batch(self, batch: str) -> None:
        self.retry_batch(batch)

    def _step_snapshot(self, name: str) -> None:
        self.note("snapshot", name=name, state=self.state())
