"""What kombu has serialized, as plain values or one text, for a store to keep."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from kombu.serialization import dumps, loads, registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery


def pack_body(body: str | bytes) -> dict[str, Any]:
    """A body, be it text or not, as two values that JSON can carry."""
    if isinstance(body, bytes):
        return {"body": base64.b64encode(body).decode("ascii"), "is_base64": True}
    return {"body": body, "is_base64": False}


def unpack_body(data: Mapping[str, Any]) -> str | bytes:
    """The body that `pack_body` packed, perhaps among other values."""
    body: str | bytes = base64.b64decode(data["body"]) if data["is_base64"] else data["body"]
    return body


def pack_payload(content_type: str, content_encoding: str, body: str | bytes) -> dict[str, Any]:
    """What `kombu.serialization.dumps` made, as values that JSON can carry."""
    return {"content_type": content_type, "content_encoding": content_encoding, **pack_body(body)}


def load_payload(data: Mapping[str, Any], app: Celery) -> Any:
    """What was serialized before `pack_payload` packed it.

    Raises:
        ContentDisallowed: It is in a serializer that ``accept_content`` does not name.
    """
    accept = {registry.name_to_type.get(name, name) for name in app.conf.accept_content}
    return loads(unpack_body(data), data["content_type"], data["content_encoding"], accept=accept)


def dump_arguments(args: Any, kwargs: Any, serializer: str) -> str:
    """Arguments in a serializer of kombu's, as text.

    Raises:
        EncodeError: They cannot be encoded so.
    """
    return json.dumps(pack_payload(*dumps((args, kwargs), serializer=serializer)))


def load_arguments(payload: str, app: Celery) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `dump_arguments` wrote.

    Raises:
        ContentDisallowed: It is in a serializer that ``accept_content`` does not name.
    """
    args, kwargs = load_payload(json.loads(payload), app)
    return tuple(args), dict(kwargs)
