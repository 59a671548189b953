"""The exceptions that scripts raise by name."""

from __future__ import annotations

from functools import cache


class ScriptedError(Exception):
    """What a script raises."""


@cache
def error_class(name: str) -> type[ScriptedError]:
    """The one class of that name."""
    return type(name, (ScriptedError,), {"__module__": __name__})


def scripted(name: str) -> ScriptedError:
    """An exception of that name."""
    return error_class(name)(f"{name} of the script")


def name_of(error: BaseException | None) -> str | None:
    """The name that traces know an exception by."""
    return None if error is None else type(error).__name__
