"""Conditions as users give them: a value, a callable, or a callable of the job."""

from __future__ import annotations

import inspect
from typing import Any


def holds(condition: Any, job: Any) -> bool:
    """Whether a condition holds for a job.

    A callable is called with the job if it takes an argument, else without
    one; anything else counts as its truth. What it raises is the attempt's
    exception.
    """
    if not callable(condition):
        return bool(condition)
    return bool(condition(job) if _takes_an_argument(condition) else condition())


def _takes_an_argument(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a built-in without a signature: the documented form is a callable of the job
        return True
    return True
