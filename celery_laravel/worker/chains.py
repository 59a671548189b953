"""What a chain does about a step that failed: its ``catch`` callbacks are sent, once a failure."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery_laravel.message.arguments import ExceptionArgument
from celery_laravel.message.callbacks import send_callback
from celery_laravel.message.canvas import change_headers, first_tasks_of, mark_members, tasks_of
from celery_laravel.stores.records import AttemptEnd, StartStatus
from celery_laravel.worker.starting import KEEP_OPEN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Celery

    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.stores.contracts import Store


class ChainCatches:
    """Sends what is to catch a chain's failure, as jobs of their own."""

    def __init__(self, app: Celery, store: Callable[[], Store]) -> None:
        self._app = app
        self._store = store

    def caught(self, chain: Mapping[str, Any], error: Mapping[str, Any], *, owner: str) -> None:
        """Send the callbacks of a chain in which a job, the ``owner``, has failed for good.

        The chain is given as the job's header has it, its exception as data.

        Of several members of a group that fail, the first one does; a retry of a
        failed step begins another round, in which a failure is caught again.
        That the round has failed is written down as a turn of a job of the
        chain's name: one whose sender died is begun again, and the callbacks are
        sent again under the same ids, under which each runs once.

        Raises:
            StoreUnavailableError: The store did not answer; some may have been sent.
            Exception: Whatever keeps one from being published.
        """
        if not chain.get("catch"):
            return
        name = f"{chain['id']}:catch:{chain.get('round', 0)}"
        attempts = self._store().attempts
        start = attempts.begin(name, turn=0, attempts=0, exceptions=0, owner=owner, lease=timedelta(0), keep=KEEP_OPEN)
        if start.status is not StartStatus.STARTED:
            return
        argument = ExceptionArgument(error)
        for position, data in enumerate(chain["catch"]):
            send_callback(self._app, data, f"{name}:{position}", argument)
        attempts.end(AttemptEnd(name, 0, is_final=True, attempts=1), keep=KEEP_OPEN)

    def has_gone_on(self, request: Any, running: RunningJob) -> bool:
        """Whether what follows a step has started; what has not is kept from ever starting.

        For a step that lost its worker and has no attempt left: that may have
        happened after its code had ended, when the next step was on its way
        already. Then the chain goes on, or it fails here, and never both. Of a
        group, the job that is sent first tells for all.
        """
        chain = running.header.chain or {}
        if not running.is_durable or not chain.get("catch") or not request.chain:
            return False
        attempts = self._store().attempts
        first, *others = _ids_of_next(request)
        if not attempts.forestall(first, keep=KEEP_OPEN):
            return True
        for task_id in others:
            attempts.forestall(task_id, keep=KEEP_OPEN)
        return False

    def reopen(self, request: Any, running: RunningJob) -> None:
        """Let start what `has_gone_on` has kept from it: a step that had failed was tried again, and has succeeded."""
        if (running.header.chain or {}).get("round"):
            for task_id in _ids_of_next(request):
                self._store().attempts.forget(task_id)

    def extend(self, request: Any, running: RunningJob) -> None:
        """Put what a running job said is to follow into the rest of its chain: in front of it, or at its end."""
        rest = list(request.chain or ())  # Celery keeps it with the next step last
        for comes_first, signature in running.following:
            steps = self._steps(signature, running)
            rest = [*rest, *reversed(steps)] if comes_first else [*reversed(steps), *rest]
        request.chain = rest

    def _steps(self, signature: Any, running: RunningJob) -> list[Any]:
        header = running.header
        if header.chain is not None:
            change_headers(signature, lambda own: replace(own, chain=header.chain))
        if header.batch_id is not None:
            index = self._store().batches.add(header.batch_id, sum(1 for _ in tasks_of(signature)))
            mark_members(signature, header.batch_id, index, None)
        return list(signature.tasks) if signature.get("subtask_type") == "chain" else [signature]


def _ids_of_next(request: Any) -> list[str]:
    """The ids of the jobs that a step's success sends."""
    return [task["options"]["task_id"] for task in first_tasks_of(request.chain[-1])] if request.chain else []
