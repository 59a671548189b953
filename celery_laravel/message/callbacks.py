"""Callbacks on their way: signatures kept as data, which leave as jobs of their own under an id known beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import signature as to_signature

from celery_laravel.message.header import Header, read_header, with_header
from celery_laravel.settings import settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery


def send_callback(
    app: Celery, data: Mapping[str, Any], task_id: str, *arguments: Any, connection: str | None = None
) -> None:
    """Publish a callback with arguments in front of its own.

    Its header says that it is a callback, so that its starts are counted and
    one that has run under this id does not run again. It goes through the
    ``connection`` of that name where this process knows both that and the task:
    a worker that does not is one of that very broker. A message that puts a job
    back, which waited for this, goes as it is.

    Raises:
        Exception: Whatever keeps it from being published.
    """
    signature = to_signature(dict(data), app=app).clone()
    if read_header(signature.options.get("headers")).turn:
        signature.apply_async()
        return
    headers = with_header(signature.options.get("headers"), Header(callback=task_id))
    options = {}
    if connection in settings_of(app).connections and hasattr(app.tasks.get(signature.task), "job_options"):
        options["connection_name"] = connection
    signature.apply_async(args=arguments, task_id=task_id, headers=headers, **options)
