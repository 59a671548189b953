"""Keys as users give them (a value, a callable, the names of arguments), and the text under which stores keep them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from numbers import Integral
from pathlib import PurePath
from typing import Any
from uuid import UUID

LONGEST = 200
"""Characters of a key's text; stores take 255, which leaves room for what is put before it."""

_SHOWN = 100

_TEXTUAL = (Decimal, UUID, PurePath, timedelta)


def key_of(by: Any, job: Any) -> str:
    """The key that ``by`` gives for a job: a text of at most `LONGEST` characters, the same in every process.

    A callable is called with the job, and what it returns is the key's value. A
    string that is the name of one of the job's arguments stands for that
    argument, and so does each such string in a list or tuple; any other value
    stands for itself.

    Raises:
        TypeError: The value has no text that would be the same in another
            process (`key_text`).
    """
    if callable(by):
        return key_text(by(job))
    if isinstance(by, str):
        return key_text(_argument(by, job.arguments)) if by else ""
    if isinstance(by, (list, tuple)):
        arguments = job.arguments
        return key_text([_argument(item, arguments) for item in by])
    return key_text(by)


def key_text(value: Any) -> str:
    """A value as the text of a key: at most `LONGEST` characters, the same in every process.

    A string is its own text and None is the empty one. A number is written as
    in JSON, so that ``7`` and ``"7"`` are one key: an argument's type may change
    on its way through a form or a URL. Tuples and lists are the same, as they
    are after a job's message; sets and mappings are sorted. What is longer, or
    holds characters that cannot be printed, is replaced by its hash.

    >>> key_text(42), key_text(("eu", 42)), key_text(None)
    ('42', '["eu", 42]', '')

    Raises:
        TypeError: The value is none of the plain kinds: its text might hold an
            address in memory, or be that of another object too.
    """
    return shortened(_text(value))


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text of at most ``longest`` (165 or more) characters: itself, or its beginning with a hash of the whole."""
    if len(text) <= longest and text.isprintable():
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[:_SHOWN] if text.isprintable() else ''}#{digest}"


def _argument(name: Any, arguments: Mapping[str, Any]) -> Any:
    return arguments[name] if isinstance(name, str) and name in arguments else name


def _text(value: Any) -> str:
    value = _plain(value)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """A value made of what JSON knows, the same for values that mean the same."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, AbstractSet):
        return sorted(map(_text, value))
    if isinstance(value, Mapping):
        return {_text(key): _plain(value[key]) for key in sorted(value, key=_text)}
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, (bool, type(None), float)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, (date, time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (str, *_TEXTUAL)):
        return str(value)
    msg = (
        f"{value!r} ({type(value).__name__}) cannot be a key: its text may differ from process to process. "
        "Give what identifies it, such as its id, or a tuple of such values."
    )
    raise TypeError(msg)
