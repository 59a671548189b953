"""Points at which a test can break a process: before and after every call of a store, and every message sent.

    reach = Dies(at="batches.mark_sent:before")
    put_points(app, reach)      # in the module that the worker is started with

Whatever ``reach`` does at a point happens there: end the process, raise, wait,
or take note. For tests alone; nothing in the library imports this.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from celery_laravel.stores import factory

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from celery_laravel.stores.contracts import Store

    Reach = Callable[[str], object]

CAPABILITIES = ("attempts", "batches", "failed_jobs", "locks", "limits", "debounces")
"""The parts of a store whose methods are points, such as ``locks.acquire``; the store's own are ``store.settle``."""


class FaultyStore:
    """A store that tells of each of its calls before it is made, and again when it has been answered.

    The points are called ``<capability>.<method>:before`` and ``…:after``. A
    call that raises has no second one. What the store is made of is left as it
    is, so the store inside may be of any kind.
    """

    def __init__(self, store: Store, reach: Reach) -> None:
        self._store = store
        self._reach = reach
        for name in CAPABILITIES:
            setattr(self, name, _Faulty(getattr(store, name), name, reach))
        self.settle = _with_points(store.settle, "store.settle", reach)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _Faulty:
    """One capability of a store, with points around its methods."""

    def __init__(self, part: Any, name: str, reach: Reach) -> None:
        self._part, self._name, self._reach = part, name, reach

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not callable(found) or name.startswith("_"):
            return found
        return _with_points(found, f"{self._name}.{name}", self._reach)


def put_points(app: Celery, reach: Reach) -> None:
    """Put points around the calls of an app's store, and around its messages: ``publish:before``, ``publish:after``.

    To be called once in each process, after `install` and before the store is
    first used; processes that are forked later have the points too. The store
    of failed jobs has them when it is the app's own.
    """
    inner = factory.store_of(app)
    factory._stores[app] = FaultyStore(inner, reach)  # noqa: SLF001  as the app's own
    send = app.amqp.send_task_message
    app.amqp.send_task_message = _with_points(send, "publish", reach)


class Dies:
    """Ends its process with SIGKILL the ``nth`` time that it comes to a point, as losing power would."""

    def __init__(self, at: str, nth: int = 1) -> None:
        self.at, self.nth = at, nth
        self._seen = 0

    def __call__(self, point: str) -> None:
        """Come to a point."""
        self._seen += point == self.at
        if self._seen == self.nth:
            os.kill(os.getpid(), signal.SIGKILL)


def _with_points(call: Callable[..., Any], name: str, reach: Reach) -> Callable[..., Any]:
    def around(*args: Any, **kwargs: Any) -> Any:
        reach(f"{name}:before")
        answer = call(*args, **kwargs)
        reach(f"{name}:after")
        return answer

    return around
