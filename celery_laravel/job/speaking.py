"""What a running job may ask about itself, and say about how it is to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from celery_laravel.attempt.outcome import Released
from celery_laravel.attempt.ownership import owner_of
from celery_laravel.attempt.retry_policy import Counts, Limits
from celery_laravel.attempt.running_job import RUNNING, RunningJob, bind_arguments
from celery_laravel.attempt.storing import QuietTask
from celery_laravel.dispatch.batch import Batch
from celery_laravel.dispatch.members import as_signature
from celery_laravel.errors import ManuallyFailedError
from celery_laravel.message.durations import in_seconds, is_seconds
from celery_laravel.message.header import read_header
from celery_laravel.message.options import JobOptions
from celery_laravel.runtime import Runtime, runtime_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta


class SpeakingJob(QuietTask):
    """A task that knows its attempt while it runs. What it says takes effect when the attempt ends."""

    abstract = True
    job_options: ClassVar[JobOptions] = JobOptions()

    @property
    def attempts(self) -> int:
        """The number of this attempt, from 1; releases, exceptions and crashes of the worker count."""
        return self._running("attempts").counts.attempt

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments by parameter name, defaults included."""
        self._running("arguments")
        return bind_arguments(self.run, tuple(self.request.args or ()), self.request.kwargs or {})

    @property
    def batch(self) -> Batch | None:
        """The batch this job belongs to, as it stands now (one call of the store), or None."""
        header = self._running("batch").header
        if header.batch_id is None:
            return None
        record = self._runtime.store.batches.find(header.batch_id)
        return None if record is None else Batch(record, self.app)

    def release(self, delay: float | timedelta = 0, count_attempt: bool | None = None) -> None:
        """Put the job back once this attempt returns; it does not raise.

        The last call holds. A ``fail()`` or ``delete()`` in the same attempt
        wins over it; an exception does too, and lends the delay to its own
        retry.

        Args:
            delay: Seconds, or a timedelta, until the job may be picked up again.
            count_attempt: Whether this attempt uses up one of ``tries``; None
                leaves it to ``laravel_release_counts``.
        """
        seconds = in_seconds(delay)
        if not is_seconds(seconds):
            msg = f"Task {self.name!r}: release({delay!r}): the delay must be seconds or a timedelta, not negative."
            raise ValueError(msg)
        running = self._running("release")
        if count_attempt is None:
            count_attempt = running.code_ran or self._runtime.defaults.release_counts
        if not running.verdict.is_final:
            running.verdict.release = Released(float(seconds), counts=count_attempt)

    def fail(self, exc: BaseException | str | None = None) -> None:
        """Fail the job for good once this attempt returns; it does not raise.

        Args:
            exc: The reason: an exception, a message, or nothing
                (`ManuallyFailedError`). The first call holds.
        """
        if isinstance(exc, type) and issubclass(exc, BaseException):
            exc = exc()
        if not isinstance(exc, BaseException):
            exc = ManuallyFailedError(exc or f"{self.name} was failed by hand.")
        running = self._running("fail")
        if not running.verdict.is_final:
            running.verdict.failure = exc

    def delete(self) -> None:
        """Be done with the job, whatever follows in this attempt; it is not a failure, and a chain goes on."""
        running = self._running("delete")
        if not running.verdict.is_final:
            running.verdict.deleted = True

    def prepend_to_chain(self, signature: Any) -> None:
        """Run a signature, or a list of them as a chain, next; what was to follow comes after it.

        It takes effect when this attempt has succeeded: one that is released or
        raises has changed nothing. The later of two calls runs first. In a batch
        the new steps are members of it; a chain's ``catch`` holds for them too.

        Raises:
            TypeError: It is no signature.
        """
        self._running("prepend_to_chain").following.append((True, as_signature(self.app, signature, 0)))

    def append_to_chain(self, signature: Any) -> None:
        """Run a signature, or a list of them as a chain, after all that was to follow; else as `prepend_to_chain`.

        Raises:
            TypeError: It is no signature.
            RuntimeError: The job's chain stands in the header of a chord, which
                waits for the step that is now its last.
        """
        running = self._running("append_to_chain")
        if self.request.chord or any((step.get("options") or {}).get("chord") for step in self.request.chain or ()):
            raise RuntimeError(f"{self.name}.append_to_chain: a chord waits for the last step that its chain has now.")
        running.following.append((False, as_signature(self.app, signature, 0)))

    def _running(self, asked: str) -> RunningJob:
        request = self.request_stack.top
        if request is None or RUNNING not in request.__dict__:
            msg = (
                f"{self.name}.{asked} is known only while the job runs: use it inside its own code (bind=True), and "
                "where that is called directly, call dispatch_sync(…) instead."
            )
            raise RuntimeError(msg)
        running: RunningJob | None = request.__dict__[RUNNING]
        if running is None:
            header = read_header(request.headers)
            running = RunningJob(
                request.id,
                self.job_options,
                header,
                Counts(header.attempts + 1),
                Limits(),
                code_ran=True,
                owner=owner_of(request),
            )
            request.__dict__[RUNNING] = running
        return running

    @property
    def _runtime(self) -> Runtime:
        return runtime_of(self.app)
