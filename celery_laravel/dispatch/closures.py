"""A closure while it is being built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Task
from celery.canvas import Signature
from celery.utils import uuid

from celery_laravel.message.closures import TASK, check_function, name_of, pack, require_keys
from celery_laravel.message.durations import delay_in_seconds
from celery_laravel.settings import settings_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from celery import Celery
    from celery.result import AsyncResult


class PendingClosure:
    """A function that is to run in a worker as a job of its own, and what shall happen when it fails.

    Every method but `dispatch` and `signature` returns the pending closure, so
    that calls chain.

        Bus.closure(lambda: orders.validate(order_id)).name("validate-order").catch(alert.s()).dispatch()

    Raises:
        TypeError: It is no function, or one that cannot travel.
        ConfigurationError: There is no ``laravel_secret_key``, or the extra
            ``closures`` is not installed.
    """

    def __init__(self, app: Celery, function: Callable[..., Any]) -> None:
        require_keys(settings_of(app).secret_key)
        check_function(function)
        self._app = app
        self._function = function
        self._name = name_of(function)
        self._catches: list[Any] = []
        self._options: dict[str, Any] = {}

    def name(self, name: str) -> PendingClosure:
        """Call the job so where people see it: in the log, in events, among failed jobs."""
        self._name = str(name)
        return self

    def catch(self, callback: Any) -> PendingClosure:
        """Call ``callback(exc)`` as a job of its own when the function has failed: a signature, or a function."""
        if isinstance(callback, Task):
            callback = callback.s()
        if isinstance(callback, Signature):
            self._catches.append(dict(callback))
            return self
        check_function(callback)
        self._catches.append(callback)
        return self

    def on_queue(self, queue: str) -> PendingClosure:
        """Send it to this queue."""
        self._options["queue"] = queue
        return self

    def delay(self, seconds: float | timedelta) -> PendingClosure:
        """Run it so many seconds after its dispatch.

        Raises:
            ValueError: It is negative, or no duration.
        """
        self._options["countdown"] = delay_in_seconds(seconds)
        return self

    def dispatch(self) -> AsyncResult[Any]:
        """Send it, and return its result.

        Raises:
            TypeError: It captures what cannot travel; the message names it.
        """
        return self.signature().apply_async()

    def signature(self, task_id: str | None = None, *, immutable: bool = True) -> Signature:
        """The signature of the job, for a chain or a batch. It is signed for one id, and so for one dispatch.

        In a chain the function is called without arguments, whatever the step
        before it returned, unless ``immutable`` is False.

        Raises:
            TypeError: It captures what cannot travel; the message names it.
        """
        task_id = task_id or uuid()
        keys = require_keys(settings_of(self._app).secret_key)
        payload = pack((self._function, self._catches), function=self._function, keys=keys, task_id=task_id)
        shown = {"shadow": self._name, "kwargsrepr": repr({"closure": self._name})}
        options = {**self._options, **shown, "task_id": task_id}
        return Signature(TASK, kwargs={"closure": payload}, options=options, app=self._app, immutable=immutable)


def closure_of(app: Celery, function: Any) -> PendingClosure:
    """A pending closure as it is, or one of a plain function."""
    return function if isinstance(function, PendingClosure) else PendingClosure(app, function)
