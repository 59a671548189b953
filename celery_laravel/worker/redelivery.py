"""What a request says of whether its message has come before, on its way from the worker's parent to the child."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

_HIDDEN = "laravel_redelivered"


def tell_redelivery(app: Celery, request: dict[str, Any]) -> None:
    """Have a request say whether its message has come before, on SQS too, whose transport in kombu says only how often.

    Celery drops one that has, and whose job has succeeded, with
    ``worker_deduplicate_successful_tasks``. From Celery it is hidden then: of
    this library's jobs `celery_laravel.worker.ended_before` sees to that.
    """
    delivery = request.get("delivery_info") or {}
    if not (delivery.get("redelivered") or _sqs_deliveries(request) > 1):
        return
    if app.conf.worker_deduplicate_successful_tasks:
        request["delivery_info"] = {**delivery, "redelivered": False, _HIDDEN: True}
    else:
        request["delivery_info"] = {**delivery, "redelivered": True}  # another one: Celery goes by its own


def has_come_before(request: Any) -> bool:
    """Whether a request in the worker's parent says so."""
    delivery = request.delivery_info or {}
    return bool(delivery.get("redelivered") or delivery.get(_HIDDEN))


def reveal_redelivery(request: Any) -> None:
    """Have a running request say again what was hidden from Celery."""
    delivery = request.delivery_info or {}
    if delivery.get(_HIDDEN):
        request.delivery_info = {**delivery, "redelivered": True}
        del request.delivery_info[_HIDDEN]


def _sqs_deliveries(request: dict[str, Any]) -> int:
    try:
        message = request["properties"]["delivery_info"]["sqs_message"]
        return int(message["Attributes"]["ApproximateReceiveCount"])
    except (KeyError, TypeError, ValueError):
        return 0
