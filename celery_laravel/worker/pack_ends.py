"""What Celery's worker does about a message whose job does not end by itself, for a member of a pack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery.app.task import Context
from celery.signals import task_failure, task_revoked

from celery_laravel.worker.results import ignores_result

if TYPE_CHECKING:
    from celery_laravel.message.packs import Packed
    from celery_laravel.worker.endings import Ending


def revoke(task: Any, member: Packed, error: Exception) -> None:
    """End a member that has been revoked before it began."""
    context = Context(member.request)
    stores = _stores_errors(task, context)
    task.backend.mark_as_revoked(member.id, str(error), request=context, store_result=stores)
    task_revoked.send(sender=task, request=context, terminated=False, signum=None, expired=False)
    task.settle_without_child(context, error)


def fail(task: Any, member: Packed, error: Exception, *, is_settled: bool = False, told: Ending | None = None) -> None:
    """End a member that has failed without Celery's tracer; ``is_settled`` if only Celery does not know of it.

    ``told`` is how far its process has come with that.
    """
    context = Context(member.request)
    try:
        raise error
    except type(error):
        info = ExceptionInfo()
    error.__traceback__ = None
    stores = _stores_errors(task, context)
    task.backend.mark_as_failure(member.id, error, request=context, store_result=stores)
    task_failure.send(
        sender=task,
        task_id=member.id,
        exception=error,
        args=member.args,
        kwargs=member.kwargs,
        traceback=info.traceback,
        einfo=info,
    )
    if not is_settled:
        task.settle_without_child(context, error, told)


def _stores_errors(task: Any, context: Context) -> bool:
    return not ignores_result(task, context) or task.store_errors_even_if_ignored
