"""Functions that users give: what can be told of one before it is called."""

from __future__ import annotations

import inspect
from typing import Any


def is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine: nobody here awaits one, and as an answer it would pass for True."""
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
        for each in (function, getattr(type(function), "__call__", None))  # noqa: B004  not whether it can be called
    )
