"""A job's arguments as one text, for a store to keep."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from kombu.serialization import dumps, loads, registry

if TYPE_CHECKING:
    from celery import Celery


def dump_arguments(args: Any, kwargs: Any, serializer: str) -> str:
    """Arguments in a serializer of kombu's, as text.

    Raises:
        EncodeError: They cannot be encoded so.
    """
    content_type, encoding, body = dumps((args, kwargs), serializer=serializer)
    is_binary = isinstance(body, bytes)
    return json.dumps(
        {
            "content_type": content_type,
            "content_encoding": encoding,
            "body": base64.b64encode(body).decode("ascii") if is_binary else body,
            "is_base64": is_binary,
        }
    )


def load_arguments(payload: str, app: Celery) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `dump_arguments` wrote.

    Raises:
        ContentDisallowed: It is in a serializer that ``accept_content`` does not name.
    """
    data = json.loads(payload)
    body = base64.b64decode(data["body"]) if data["is_base64"] else data["body"]
    accept = {registry.name_to_type.get(name, name) for name in app.conf.accept_content}
    args, kwargs = loads(body, data["content_type"], data["content_encoding"], accept=accept)
    return tuple(args), dict(kwargs)
