"""A message as a row of the table, and back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

from celery.utils.time import maybe_iso8601
from kombu.log import get_logger
from kombu.utils.json import dumps, loads

from celery_laravel.transport.database.tables import LONGEST_TASK_ID

if TYPE_CHECKING:
    from celery_laravel.transport.database.messages import NewMessage, Reserved

logger = get_logger(__name__)

# Where on Earth a wall clock is furthest ahead.
_EARLIEST_ZONE = timezone(timedelta(hours=14))


def encode(queue: str, message: dict[str, Any], *, priority: int) -> NewMessage:
    """Make a row of a message; one with an ETA is to stay hidden until then."""
    due = _due(message)
    task_id = _task_id(message) if due else None
    return {"queue": queue, "priority": priority, "due": due, "payload": dumps(message), "task_id": task_id}


def with_text(row: NewMessage, text: str) -> NewMessage:
    """The row of a message that is another's but for its text."""
    task_id = _task_id(loads(text)) if row["due"] else None
    return {**row, "payload": text, "task_id": task_id}


def decode(reserved: Reserved) -> dict[str, Any]:
    """Make kombu's raw message of a row, with what is known about its earlier deliveries.

    From the second delivery on it is marked as redelivered, and
    ``x-delivery-count`` says how many deliveries before this one came to
    nothing: it is absent at zero, as on RabbitMQ's quorum queues.

    Raises:
        ValueError: The row does not hold a message.
    """
    raw = loads(reserved.payload)
    try:
        properties, headers = raw["properties"], raw["headers"]
        properties["delivery_tag"] = reserved.tag
        # They describe this delivery; what a message carries of them is from an earlier life.
        headers.pop("redelivered", None)
        headers.pop("x-delivery-count", None)
        if reserved.acquired > 1:
            headers["redelivered"] = True
            properties["delivery_info"]["redelivered"] = True
        if failed := reserved.acquired - 1 - reserved.returned:
            headers["x-delivery-count"] = failed
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a message: {error!r}") from error
    return cast("dict[str, Any]", raw)


def _task_id(message: dict[str, Any]) -> str | None:
    """The id by which a revocation finds a message; None where it has none that a column can keep."""
    task_id = (message.get("headers") or {}).get("id")
    if not isinstance(task_id, str) or not 0 < len(task_id) < LONGEST_TASK_ID or not task_id.isprintable():
        return None
    return task_id


def _due(message: dict[str, Any]) -> float:
    eta = (message.get("headers") or {}).get("eta")
    if not eta:
        return 0.0
    try:
        return _in_some_zone(maybe_iso8601(eta)).timestamp()
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        # The worker refuses such a message with an error of its own.
        logger.warning("Cannot read the ETA %r of a message; it is delivered at once: %s", eta, error)
        return 0.0


def _in_some_zone(moment: datetime) -> datetime:
    # Which zone is meant only the worker's app knows; it waits for what comes early, but cannot mend what comes late.
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=_EARLIEST_ZONE)
