"""The locks that a scenario's jobs hold, and the time in which they live and die."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery import _state

from celery_laravel.attempt import leases
from celery_laravel.attempt.running_job import RUNNING
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.records import LockRequest
from tests.parity.declarations import Declarations
from tests.parity.scenario import Scenario


class Holders(Declarations):
    """Plays what keeps leases alive: ``dead`` are the owners whose worker is gone, so that nobody renews theirs."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.dead: set[str] = set()

    def worker_died(self) -> None:
        for task in _state._task_stack.stack:
            for request in task.request_stack.stack:
                running = request.__dict__.get(RUNNING)
                self.dead |= {request.id} if running is None else {request.id, running.owner}

    def move_to(self, instant: float) -> None:
        """Let time pass, and meanwhile do what the parents of living workers do: renew what is held in them."""
        while self.now < instant:
            held = {record.owner for record in self._held() if record.is_lease} - self.dead
            running = self._running()
            self.now = min(instant, self.now + leases.INTERVAL) if held or running else instant
            leases.renew(self._store, sorted(held), running)

    def _running(self) -> dict[str, str]:
        """The attempts that this process keeps alive in the scenario's store, less those whose worker is gone."""
        kept = [
            (owner, job_id) for (owner, job_id), (store, _) in leases._keeper()._held.items() if store is self._store
        ]
        return {job_id: owner for owner, job_id in kept if job_id is not None and owner not in self.dead}

    def locks(self) -> list[str]:
        return sorted(self.name_of_lock(record) for record in self._held())

    def _held(self) -> list[Any]:
        """The locks that are held; the store is not asked where nothing takes one."""
        return list(self._store.locks.all()) if self.scenario.uses_locks else []

    def acquire_overlap(self, label: str) -> None:
        for key, layer in self.overlaps_of(label):
            seconds = layer.get("expire_after") or None
            ttl = None if seconds is None else timedelta(seconds=seconds)
            if not self._store.locks.find(key):
                self._store.locks.acquire(LockRequest(key, "another process", "overlap", ttl=ttl))

    def release_overlap(self, label: str) -> None:
        self._store.locks.release([key for key, _ in self.overlaps_of(label)], owner="another process")

    @property
    def _store(self) -> Any:
        return runtime_of(self.app).store
