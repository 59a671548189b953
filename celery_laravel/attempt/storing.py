"""Keeping Celery from storing a state of a job over the one that this library has stored."""

from __future__ import annotations

from typing import Any

from celery import VERSION, Task

GOES_BY_REQUEST = VERSION[:2] >= (5, 6)
"""Whether Celery goes by what a request says about its result, and not by its task alone."""

_KEPT = "_laravel_stores_nothing"


def keep_from_storing(request: Any) -> None:
    """Have Celery store neither retry nor failure of a running request. Everything else it does as ever."""
    request.ignore_result = True
    request.__dict__[_KEPT] = True


class QuietTask(Task):
    """A task whose result backend stores nothing of a request that is kept from it: for Celery 5.5."""

    abstract = True

    if not GOES_BY_REQUEST:

        @property
        def backend(self) -> Any:
            """The result backend."""
            backend = super().backend
            request = None if self.request_stack is None else self.request_stack.top
            return backend if request is None or _KEPT not in request.__dict__ else _Quiet(backend)

        @backend.setter
        def backend(self, backend: Any) -> None:
            self._backend = backend


class _Quiet:
    """A result backend that is told how a job ended, and stores none of it; chords are settled all the same."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def mark_as_retry(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def mark_as_failure(self, *args: Any, **kwargs: Any) -> Any:
        """What follows from a failure, but its state."""
        return self._backend.mark_as_failure(*args, **{**kwargs, "store_result": False})
