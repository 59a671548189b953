"""Messages that wait in the store: as text, published from it, and marked as revoked.

There are two forms. One is what `Published` says, for whoever publishes it
when it is due; the other is the text that kombu would have put into a queue,
which the store itself pushes there. Both are a JSON object with the task's
``headers``, and that is all that this library reads of either.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps, loads

from celery_laravel.errors import InvalidMessageError
from celery_laravel.message.header import NAME, VERSION
from celery_laravel.message.payload import pack_body, unpack_body

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONG_AGO = "1970-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class Published:
    """A message as `kombu.Producer.publish` takes it, its body serialized. ``options`` are priority and the like.

    ``exchange_type`` is given where brokers do not know it, and each process has to be told. ``connection`` is the name
    of the app's connection that leads to its broker, None for its own.
    """

    body: str | bytes
    content_type: str
    content_encoding: str
    headers: Mapping[str, Any]
    exchange: str
    exchange_type: str | None
    routing_key: str | None
    options: Mapping[str, Any]
    connection: str | None = None

    def as_text(self) -> str:
        """The message as text.

        Raises:
            EncodeError: A header or an option cannot be carried by JSON.
        """
        return str(dumps({**vars(self), **pack_body(self.body)}))

    @classmethod
    def from_text(cls, text: str) -> Published:
        """The message that `as_text` made a text of.

        Raises:
            InvalidMessageError: It is no such text.
        """
        try:
            data = loads(text)
            data["body"] = unpack_body(data)
            del data["is_base64"]
            return cls(**data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidMessageError(f"A delayed message in the store cannot be read: {error}") from error


def headers_of(text: str) -> Mapping[str, Any]:
    """The headers of a message of either form; none where it cannot be read."""
    try:
        headers = json.loads(text)["headers"]
    except (ValueError, TypeError, KeyError):
        return {}
    return headers if isinstance(headers, dict) else {}


def marked_as_revoked(text: str) -> str:
    """A message of either form, as one that no worker runs and that settles its job as a revoked one.

    A worker with this library goes by the header. To any other it has expired
    long ago, which Celery takes for a revocation as well.

    Raises:
        InvalidMessageError: It cannot be read.
    """
    try:
        data = json.loads(text)
        headers = data["headers"]
        header = headers.get(NAME) or {"v": VERSION}
        headers |= {NAME: {**header, "revoked": True}, "expires": _LONG_AGO}
        if headers.get("eta") is not None:  # for which a worker would wait
            headers["eta"] = None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidMessageError(f"A delayed message in the store cannot be read: {error}") from error
    return json.dumps(data)


def is_marked_as_revoked(headers: Mapping[str, Any]) -> bool:
    """Whether a message's headers say that its job was revoked while it waited."""
    header = headers.get(NAME)
    return isinstance(header, dict) and header.get("revoked") is True
