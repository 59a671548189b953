"""Keys of middleware that are probably misspelt names of arguments, for a worker to warn of when it starts.

``by="account_id"`` is the argument of that name where the task has one, and a
key of its own where it has none. So a slip would not be an error: all jobs of
the task would share one key.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

logger = logging.getLogger(__name__)

_ALIKE = 0.8


def warn_of_misspelt_keys(app: Celery) -> None:
    """Log each ``by`` that is no argument of its task and resembles one, in a line.

    Middleware that a function returns is not looked at, as it takes a job to call it.
    """
    for name, task in sorted(app.tasks.items()):
        for layer, slip, meant in _slips(task):
            logger.warning(
                "%r of the task %s: %r is no argument of it, so it stands for itself and is one key for all jobs. "
                "If the argument %r is meant, mend it; if not, say so by a function: by=lambda job: %r",
                *(layer, name, slip, meant, slip),
            )


def _slips(task: Any) -> Iterator[tuple[Any, str, str]]:
    options = getattr(task, "job_options", None)
    layers = () if options is None or callable(options.middleware) else options.middleware
    named = [(layer, name) for layer in layers for name in _names(getattr(layer, "by", None))]
    if not named:
        return
    parameters = inspect.signature(task.run).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for layer, name in named:
        near = [] if name in parameters else difflib.get_close_matches(name, parameters, n=1, cutoff=_ALIKE)
        if near:
            yield layer, name, near[0]


def _names(by: Any) -> list[str]:
    given = by if isinstance(by, (list, tuple)) else [by]
    return [name for name in given if isinstance(name, str) and name]
