"""Records as values that JSON can carry, and back."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from celery_laravel.clock import as_datetime
from celery_laravel.stores.records import BatchRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

_INSTANTS = ("created_at", "cancelled_at", "finished_at")


def batch_to_data(record: BatchRecord) -> dict[str, Any]:
    """A batch's record as a mapping; instants as seconds since the epoch."""
    data = {field.name: getattr(record, field.name) for field in fields(record)}
    data["failed_job_ids"] = list(record.failed_job_ids)
    data["callbacks"] = {kind: list(map(dict, signatures)) for kind, signatures in record.callbacks.items()}
    for name in _INSTANTS:
        data[name] = data[name].timestamp() if data[name] is not None else None
    return data


def batch_from_data(data: Mapping[str, Any]) -> BatchRecord:
    """The record that `batch_to_data` made a mapping of."""
    values = dict(data)
    values["failed_job_ids"] = tuple(values["failed_job_ids"])
    for name in _INSTANTS:
        values[name] = as_datetime(values[name]) if values[name] is not None else None
    return BatchRecord(**values)
