"""Messages that differ from one another in little, made from the first of their kind.

Celery takes some 300 microseconds to make and send a task's message, most of
them to find out anew what is the same for all tasks of a batch: the route, the
headers, the options. Here the first message of a kind is made by Celery, and
the others by filling in what differs: the id, the member's index, the arguments.
"""

from __future__ import annotations

import json
import os
import re
from json.encoder import encode_basestring_ascii as quoted
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from celery.utils.saferepr import saferepr
from kombu.serialization import dumps as serialize
from kombu.serialization import loads as deserialize
from kombu.serialization import registry
from kombu.utils.json import dumps

from celery_laravel.message.header import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_GAPS = ("id", "tag", "index", "args", "kwargs", "body")
_NOTHING_FOLLOWS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_SCALARS = frozenset({int, float, bool, type(None)})
_SHORT = 64
_FEW = 12
_encode = json.JSONEncoder().encode


class Stencil:
    """A batch member's message as kombu's virtual transports keep it, with gaps where the next member's differs.

    ``queue`` is where it goes and ``message`` the one it was cut from. The gaps
    are the task's id (as root and correlation id too), the delivery tag, the
    member's index, and the arguments with the texts that show them.
    """

    def __init__(self, app: Any, channel: Any, queue: str, message: Mapping[str, Any], template: str) -> None:
        self.queue = queue
        self.message = message
        names = re.findall(r"%\((\w+)\)s", template)
        self._text = re.sub(r"%\(\w+\)s", "%s", template)
        self._in_order: Callable[[Sequence[Any]], Any] = itemgetter(*map(_GAPS.index, names))
        self._serializer = registry.type_to_name[message["content-type"]]
        self._channel = channel
        self._amqp, self._levels = app.amqp, app.conf.task_repr_maxlevels

    @classmethod
    def cut(cls, app: Any, channel: Any, queue: str, message: dict[str, Any]) -> Stencil | None:
        """The stencil of a member's message that is about to be queued; None when others cannot be made like it."""
        headers, properties = message.get("headers") or {}, message.get("properties") or {}
        task_id = headers.get("id")
        if not task_id or properties.get("correlation_id") != task_id or not _carries_arguments_alone(message, channel):
            return None
        mark = os.urandom(8).hex()
        gap = {name: f"{mark}{name}" for name in _GAPS}
        headers = {key: gap["id"] if value == task_id else value for key, value in headers.items()}
        headers |= {"argsrepr": gap["args"], "kwargsrepr": gap["kwargs"]}
        headers[NAME] = {**headers[NAME], "index": gap["index"]}
        properties = {**properties, "correlation_id": gap["id"], "delivery_tag": gap["tag"]}
        text = dumps({**message, "body": gap["body"], "headers": headers, "properties": properties})
        if task_id in text:  # in a place that is not known here
            return None
        return cls(app, channel, queue, message, re.sub(f'"{mark}([a-z]+)"', r"%(\1)s", text.replace("%", "%%")))

    def fill(self, ids: Iterator[str], index: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The text of another member's message.

        Raises:
            EncodeError: The arguments cannot be serialized.
        """
        shown = repr(args) if _is_shown_as_it_is(args) else saferepr(args, self._amqp.argsrepr_maxsize, self._levels)
        shown_kwargs = saferepr(kwargs, self._amqp.kwargsrepr_maxsize, self._levels) if kwargs else "{}"
        body, _ = self._channel.encode_body(self._serialized(args, kwargs), self._channel.body_encoding)
        values = (quoted(next(ids)), quoted(next(ids)), index, quoted(shown), quoted(shown_kwargs), quoted(body))
        text: str = self._text % self._in_order(values)
        return text

    def _serialized(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if self._serializer == "json" and not kwargs and _is_shown_as_it_is(args):
            return _encode((args, kwargs, _NOTHING_FOLLOWS))
        return serialize((args, kwargs, _NOTHING_FOLLOWS), self._serializer)[2]


def new_ids() -> Iterator[str]:
    """Random ids without end, of the form of `uuid.uuid4` (RFC 9562), made many at a time."""
    while True:
        digits = os.urandom(16 * 256).hex()
        for start in range(0, len(digits), 32):
            text = digits[start : start + 32]
            variant = "89ab"[int(text[16], 16) & 3]
            yield f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


def _carries_arguments_alone(message: Mapping[str, Any], channel: Any) -> bool:
    """Whether a message's body can be made again from other arguments: uncompressed, and nothing follows the task."""
    if "compression" in message["headers"] or message["content-type"] not in registry.type_to_name:
        return False
    body = channel.decode_body(message["body"], message["properties"].get("body_encoding"))
    try:
        _, _, follows = deserialize(body, message["content-type"], message["content-encoding"], force=True)
    except (TypeError, ValueError):
        return False
    return bool(follows == _NOTHING_FOLLOWS)


def _is_shown_as_it_is(args: Sequence[Any]) -> bool:
    """Whether arguments are so plain that ``repr`` and C's JSON give what Celery's and kombu's own ways would."""
    if type(args) is not tuple or len(args) > _FEW:
        return False
    return all(
        type(value) in _SCALARS
        or (type(value) is str and len(value) <= _SHORT and value.isprintable() and "'" not in value)
        for value in args
    )
