"""Messages that differ from one another in little, made from the first of their kind.

Celery takes some 300 microseconds to make and send a task's message, most of
them to find out anew what is the same for all of a kind: the route, the
headers, the options. Here the first message of a kind is made by Celery, and
the others by filling in what differs: the id, the arguments, and one thing of
the library's header, as a batch's member has its index.
"""

from __future__ import annotations

import os
import re
from binascii import b2a_base64
from json.encoder import encode_basestring_ascii as quoted
from math import isfinite
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from celery.utils.saferepr import saferepr
from kombu.serialization import dumps as serialize
from kombu.serialization import loads as deserialize
from kombu.serialization import registry
from kombu.transport.virtual.base import Base64
from kombu.utils.json import dumps

from celery_laravel.message.header import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_GAPS = ("id", "tag", "own", "args", "kwargs", "body")
_NOTHING_FOLLOWS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_NO_KWARGS_AND_NOTHING_FOLLOWS = f"{{}}, {dumps(_NOTHING_FOLLOWS)}]"
_SHORT = 64
_FEW = 12
_CONSTANTS = {None: "null", True: "true", False: "false"}


class Stencil:
    """A job's message as kombu's virtual transports keep it, with gaps where the next one's differs.

    ``queue`` is where it goes and ``message`` the one it was cut from. The gaps
    are the task's id (as root and correlation id too), the delivery tag, the
    one thing in the library's header that is the job's own, and the arguments
    with the texts that show them.
    """

    def __init__(self, app: Any, channel: Any, queue: str, message: Mapping[str, Any], template: str) -> None:
        self.queue = queue
        self.message = message
        names = re.findall(r"%\((\w+)\)s", template)
        self._text = re.sub(r"%\(\w+\)s", "%s", template)
        self._in_order: Callable[[Sequence[Any]], Any] = itemgetter(*map(_GAPS.index, names))
        self._serializer = registry.type_to_name[message["content-type"]]
        self._is_base64 = type(channel.codecs.get(channel.body_encoding)) is Base64
        self._channel = channel
        self._shown = Texts(app)

    @classmethod
    def cut(cls, app: Any, channel: Any, queue: str, message: dict[str, Any], own: str) -> Stencil | None:
        """The stencil of a message that is about to be queued; None when others cannot be made like it.

        ``own`` is the key in the library's header whose value is each job's own.
        """
        headers, properties = message.get("headers") or {}, message.get("properties") or {}
        task_id = headers.get("id")
        if not task_id or properties.get("correlation_id") != task_id or not _carries_arguments_alone(message, channel):
            return None
        mark = os.urandom(8).hex()
        gap = {name: f"{mark}{name}" for name in _GAPS}
        headers = {key: gap["id"] if value == task_id else value for key, value in headers.items()}
        headers |= {"argsrepr": gap["args"], "kwargsrepr": gap["kwargs"]}
        headers[NAME] = {**headers[NAME], own: gap["own"]}
        properties = {**properties, "correlation_id": gap["id"], "delivery_tag": gap["tag"]}
        text = dumps({**message, "body": gap["body"], "headers": headers, "properties": properties})
        if task_id in text:  # in a place that is not known here
            return None
        text = text.replace("%", "%%")
        for name in _GAPS:
            text = text.replace(f'"{mark}{name}"', f"%({name})s")
        return cls(app, channel, queue, message, text)

    def fill(self, task_id: str, tag: str, own: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The text of another job's message. The id, the delivery tag and the job's own are given as JSON.

        Raises:
            EncodeError: The arguments cannot be serialized.
        """
        plain = _as_json_and_text(args) if not kwargs and self._serializer == "json" else None
        if plain is None:
            payload = serialize((args, kwargs, _NOTHING_FOLLOWS), self._serializer)[2]
            shown, shown_kwargs = self._shown.by_celery(args, kwargs)
        else:
            in_json, shown = plain
            payload = f"[{in_json}, {_NO_KWARGS_AND_NOTHING_FOLLOWS}"
            shown_kwargs = "{}"
        values = (task_id, tag, own, quoted(shown), quoted(shown_kwargs), self._body(payload))
        text: str = self._text % self._in_order(values)
        return text

    def _body(self, payload: Any) -> str:
        if self._is_base64:
            data = payload.encode() if isinstance(payload, str) else payload
            return f'"{b2a_base64(data, newline=False).decode()}"'
        return quoted(self._channel.encode_body(payload, self._channel.body_encoding)[0])


class Texts:
    """The texts by which an app shows arguments in the headers of its messages."""

    def __init__(self, app: Any) -> None:
        self._levels = app.conf.get("task_repr_maxlevels", 3)  # a setting since Celery 5.7, and a constant before
        self._longest = app.amqp.argsrepr_maxsize, app.amqp.kwargsrepr_maxsize

    def of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
        """Those of positional and of keyword arguments."""
        plain = None if kwargs else _as_json_and_text(args)
        return self.by_celery(args, kwargs) if plain is None else (plain[1], "{}")

    def by_celery(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
        """The same, however complicated they are."""
        longest, longest_kwargs = self._longest
        return saferepr(args, longest, self._levels), saferepr(kwargs, longest_kwargs, self._levels)


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


def _as_json_and_text(args: Sequence[Any]) -> tuple[str, str] | None:
    """Plain arguments as kombu's JSON has them and as Celery shows them, or None where it takes theirs to tell."""
    if type(args) is not tuple or len(args) > _FEW:
        return None
    encoded: list[str] = []
    shown: list[str] = []
    for value in args:
        kind = type(value)
        if kind is int or (kind is float and isfinite(value)):
            text = repr(value)
            encoded.append(text)
        elif kind is str and len(value) <= _SHORT and value.isprintable() and "'" not in value and "\\" not in value:
            text = f"'{value}'"
            encoded.append(quoted(value))
        elif value is None or kind is bool:
            text = repr(value)
            encoded.append(_CONSTANTS[value])
        else:
            return None
        shown.append(text)
    return f"[{', '.join(encoded)}]", f"({shown[0]},)" if len(shown) == 1 else f"({', '.join(shown)})"
