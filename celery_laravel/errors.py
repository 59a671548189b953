"""One family of errors: every one derives from `CeleryLaravelError`."""

from __future__ import annotations

from typing import Any


class CeleryLaravelError(Exception):
    """Base class of every error this library raises on its own account."""


class ConfigurationError(CeleryLaravelError, ValueError):
    """A setting, a job option or a limiter is unknown, of the wrong kind, or contradicts another.

    Raised at start-up or when a task is registered, so that it is seen before
    a job is dispatched. The message names the option, the value and what to do.
    """


class MaxAttemptsExceededError(CeleryLaravelError):
    """A job was picked up although it had used up its attempts or its deadline had passed.

    The usual cause is a job that kills its worker, or one that was released
    more often than ``tries`` allows.
    """


class JobTimedOutError(CeleryLaravelError):
    """An attempt ran longer than the job's ``timeout``."""


class ManuallyFailedError(CeleryLaravelError):
    """The job called ``self.fail()`` without an exception of its own."""


class ModelNotFoundError(CeleryLaravelError):
    """A model instance among a job's arguments no longer exists."""


class BatchNotFoundError(CeleryLaravelError):
    """No batch of that id is in the store; it may have been deleted or pruned."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(batch_id)
        self.batch_id = batch_id

    def __str__(self) -> str:
        return f"There is no batch {self.batch_id!r} in the store; it may have been deleted or pruned."


class BatchFinishedError(CeleryLaravelError):
    """Jobs were added to a batch that has finished; start another batch instead."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(batch_id)
        self.batch_id = batch_id

    def __str__(self) -> str:
        return f"The batch {self.batch_id!r} has finished; start another batch for further jobs."


class BatchDispatchError(CeleryLaravelError):
    """A batch could not be dispatched to its end; what was sent may run. Do not dispatch all of it again.

    Attributes:
        batch_id: The batch.
        sent: How many of its signatures were sent. Of those that were on their way when a broker went away, more may
            have arrived.
        ending: What became of the batch.

            - ``"cancelled"``: it is cancelled, and finishes when what was sent has ended.
            - ``"kept"``: the store was away; the broker keeps word of that until a worker has told the store.
            - ``"open"``: neither store nor broker took it. The batch is not cancelled, and
              does not finish until it is closed: `Batch.close`.
            - ``"unclosed"``: as before, but every job was sent. Only closing is left to be done.
            - ``"uncancelled"``: neither took it, of jobs that were added by `Batch.add`.
        unsent: Where neither took it, the members that were counted and not
            sent, as ranges of their indices (first, last), for `Batch.close`.
    """

    def __init__(
        self, batch_id: str, sent: int, ending: str = "cancelled", unsent: tuple[tuple[int, int], ...] = ()
    ) -> None:
        super().__init__(batch_id, sent, ending, unsent)
        self.batch_id = batch_id
        self.sent = sent
        self.ending = ending
        self.unsent = unsent

    def __str__(self) -> str:
        program = "`celery -A app laravel"
        command = f"{program} close-batch {self.batch_id}"
        if self.ending == "unclosed":
            return (
                f"All {self.sent} jobs of batch {self.batch_id!r} were sent, but neither the store nor the broker took "
                f"note that these are all, so that it cannot finish. Do not dispatch it again: close it when the store "
                f"is back, by Batch.close() or {command}`."
            )
        what = f"The dispatch of batch {self.batch_id!r} failed after {self.sent} jobs were sent; "
        if self.ending == "cancelled":
            return what + "the batch has been cancelled."
        if self.ending == "kept":
            return what + "the broker keeps word that it is to be cancelled, until a worker can tell the store."
        unsent = "".join(f" --unsent {first}-{last}" for first, last in self.unsent)
        if self.ending == "uncancelled":
            end = f"{command} --incomplete{unsent}`" if unsent else f"{program} cancel-batch {self.batch_id}`"
            return what + f"neither the store nor the broker took note of it. Cancel it when the store is back: {end}."
        return (
            what + "neither the store nor the broker took note of it, so that the batch is neither cancelled nor "
            f"closed, and cannot finish. Close it when the store is back: {command} --incomplete{unsent}`."
        )


class BatchCancelledError(CeleryLaravelError):
    """A batch that stands for a job of a chain, or of another batch, was cancelled, so that nothing follows it.

    Attributes:
        batch_id: The batch.
    """

    def __init__(self, batch_id: str) -> None:
        super().__init__(batch_id)
        self.batch_id = batch_id

    def __str__(self) -> str:
        return f"Batch {self.batch_id!r} was cancelled."


class JobReleasedError(CeleryLaravelError):
    """A job run by ``dispatch_sync`` released itself, so there is no result and no queue to wait in.

    Attributes:
        delay: Seconds after which the job asked to be run again.
    """

    def __init__(self, message: str = "The job was released", delay: float = 0) -> None:
        super().__init__(message, delay)
        self.delay = delay

    def __str__(self) -> str:
        return str(self.args[0])


class LimitTimeoutError(CeleryLaravelError):
    """``throttle()`` or ``funnel()`` had no free slot, nor will have one within its ``block()``.

    Attributes:
        available_in: Seconds until there may be one, as things stand; None
            where that cannot be known.
    """

    def __init__(self, message: str = "There was no free slot in time.", available_in: float | None = None) -> None:
        super().__init__(message, available_in)
        self.available_in = available_in

    def __str__(self) -> str:
        return str(self.args[0])


class LimiterError(CeleryLaravelError):
    """The function that defines a limiter raised an exception, which is the error's ``__cause__``.

    Attributes:
        limiter: The name of the limiter.
    """

    def __init__(self, limiter: str, reason: Any = None) -> None:
        super().__init__(limiter, repr(reason) if isinstance(reason, BaseException) else reason)
        self.limiter = limiter

    def __str__(self) -> str:
        return f"The limiter {self.limiter!r} raised {self.args[1]}"


class InvalidSignatureError(CeleryLaravelError):
    """A closure or an encrypted payload does not carry a valid signature: it was altered, or the key is another."""


class InvalidMessageError(CeleryLaravelError):
    """A message's ``laravel`` header cannot be read: it is damaged, or of a version this library does not know."""


_SAID_BY = "It is laravel_store's, unless a task's unique_via or laravel_failed_store says so."


class StoreUnavailableError(CeleryLaravelError):
    """The store did not answer. The change may or may not have been made.

    Attributes:
        url: Where the store is, without its password.
    """

    def __init__(self, url: str, reason: Any = None) -> None:
        super().__init__(url, None if reason is None else str(reason))
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        because = f" ({self.reason})" if self.reason is not None else ""
        return f"Cannot reach the store at {self.url}{because}. Is it running, and is its URL right? {_SAID_BY}"
