"""What tells the jobs of one task apart: the part of a key that ``unique_id`` gives."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery_laravel.attempt.running_job import bind_arguments
from celery_laravel.message.unique_options import argument_names
from celery_laravel.middleware.keys import key_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_NAMED = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})

_signatures: WeakKeyDictionary[Any, inspect.Signature] = WeakKeyDictionary()
_positions: WeakKeyDictionary[Any, Mapping[str, int] | None] = WeakKeyDictionary()


def key_suffix(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A colon and the text of what ``unique_id`` gives for these arguments; nothing without a ``unique_id``.

    Arguments are bound to the parameters of the task's ``run``, so that equal
    ones give equal keys whether they come by position, by name or by default.

    Raises:
        TypeError: The arguments do not fit the task, or the value is of a kind
            whose text may differ from process to process.
    """
    unique_id = task.job_options.unique_id
    if unique_id is None:
        return ""
    if callable(unique_id):
        return f":{key_text(_called(unique_id, task, _bound(task, args, kwargs), args, kwargs))}"
    names = argument_names(unique_id)
    positions = None if kwargs else _positions_of(task)
    if positions is not None and len(args) == len(positions) and positions.keys() >= set(names):
        values = [args[positions[name]] for name in names]
    else:
        bound = _bound(task, args, kwargs)
        values = [_argument(bound, name) for name in names]
    return f":{key_text(values[0] if isinstance(unique_id, str) else values)}"


def _bound(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
    bound = _signature_of(task).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound


def _called(
    unique_id: Callable[..., Any],
    task: Any,
    bound: inspect.BoundArguments,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """What a function makes of the arguments, which it is given in one way whatever way they were passed.

    Of those that it names, where all it names are the task's own; of all by
    name, where it takes any name and not any number; else of all by position,
    those that have defaults included if it takes as many. One that takes none of
    this is given them as they were passed, and says what it misses.
    """
    try:
        signature = inspect.signature(unique_id)
    except ValueError:  # a built-in says nothing of what it takes
        return unique_id(task, *args, **kwargs)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if kinds <= _NAMED:
        _, *names = signature.parameters
        if bound.arguments.keys() >= set(names):
            return unique_id(task, **{name: bound.arguments[name] for name in names})
    given = _signature_of(task).bind(*args, **kwargs)
    forms: list[tuple[tuple[Any, ...], Mapping[str, Any]]] = [(it.args, it.kwargs) for it in (bound, given)]
    if inspect.Parameter.VAR_KEYWORD in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        forms.insert(0, ((), bind_arguments(task.run, tuple(args), kwargs)))
    for form_args, form_kwargs in forms:
        if _takes(signature, task, form_args, form_kwargs):
            return unique_id(task, *form_args, **form_kwargs)
    return unique_id(task, *args, **kwargs)


def _takes(signature: inspect.Signature, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    try:
        signature.bind(task, *args, **kwargs)
    except TypeError:
        return False
    return True


def _argument(bound: inspect.BoundArguments, name: str) -> Any:
    if name in bound.arguments:
        return bound.arguments[name]
    for parameter in bound.signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return bound.arguments[parameter.name].get(name)
    return None


def _signature_of(task: Any) -> inspect.Signature:
    signature = _signatures.get(task)
    return _signatures.setdefault(task, inspect.signature(task.run)) if signature is None else signature


def _positions_of(task: Any) -> Mapping[str, int] | None:
    """Which argument comes where, for a task whose arguments may all come by position; else None."""
    if task not in _positions:
        parameters = _signature_of(task).parameters
        are_plain = all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters.values())
        _positions[task] = {name: place for place, name in enumerate(parameters)} if are_plain else None
    return _positions[task]
