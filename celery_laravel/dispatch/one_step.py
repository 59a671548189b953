"""A unique job's lock and its message in one step, where the store is the Redis that is the broker.

Anywhere else the lock is taken, the message published, and the lock confirmed.
Here the store takes the lock and pushes the message, or does neither, so that
no crash leaves one without the other. The message is filled in from the last of
its kind that Celery has made, which is never older than a second: whatever else
it depends on (routes, queues, settings) is as new as that.
"""

from __future__ import annotations

import logging
import os
import threading
from json.encoder import encode_basestring_ascii as quoted
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from celery._state import get_current_worker_task
from celery.exceptions import CeleryError
from celery.utils import uuid
from kombu.exceptions import KombuError

from celery_laravel.dispatch.alike import (
    PLAIN_VALUES,
    is_made_by_celery_alone,
    is_seen_by_anyone,
    is_uniform_task,
    may_differ_by_message,
)
from celery_laravel.dispatch.letters import NOT_ALIKE, NotingProducer
from celery_laravel.dispatch.outbox import Outbox, is_redis, list_of
from celery_laravel.dispatch.stencil import Stencil
from celery_laravel.message.arguments import check_arguments
from celery_laravel.stores.servers import server_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from celery import Celery

    from celery_laravel.dispatch.letters import Letter
    from celery_laravel.dispatch.unique import UniqueDispatch
    from celery_laravel.stores.records import LockAnswer

logger = logging.getLogger("celery_laravel.unique")

MOMENT = 1.0
"""Seconds for which a message of Celery's stands for others of its kind."""

_ALIKE = frozenset({"queue", "priority", "routing_key", "ignore_result", "time_limit", "soft_time_limit"})
"""Options that say the same of every message they are given for."""


class _Form:
    """A message of Celery's, to be filled in for another job of its kind; or that none can be, with no stencil."""

    def __init__(self, app: Celery, connection: Any) -> None:
        self.stencil: Stencil | None = None
        self.target = ""
        self.is_ignored: Any = None
        self.was_refused = False
        self._cut_at = monotonic()
        self._pid = os.getpid()
        self._connection = ref(connection)
        conf: Any = app.conf
        self._conf: Any = ref(conf)
        self._settings = dict(conf.changes)

    def is_current(self, app: Celery, producer: Any) -> bool:
        """Whether Celery would make the message in the same way now."""
        conf: Any = app.conf
        return (
            monotonic() - self._cut_at < MOMENT
            and self._pid == os.getpid()
            and conf is self._conf()
            and conf.changes == self._settings
            and (producer is None or producer.connection is self._connection())
        )


class _Forms(threading.local):
    """The forms of one app in this thread: what a message says of where its result goes differs by thread."""

    def __init__(self) -> None:
        self.by_kind: dict[Hashable, _Form] = {}


_forms: WeakKeyDictionary[Celery, _Forms] = WeakKeyDictionary()


class OneStep:
    """How one dispatch of a unique job takes its lock and sends its message."""

    def __init__(self, task: Any, lock: UniqueDispatch, options: dict[str, Any], producer: Any) -> None:
        self._app: Celery = task.app
        self._task = task
        self._lock = lock
        self._producer = producer
        self._kind = (task.name, lock.unique_for, producer is None, *options.items())
        forms = _forms.get(self._app)
        self._known = (_forms.setdefault(self._app, _Forms()) if forms is None else forms).by_kind

    @classmethod
    def of(cls, task: Any, lock: UniqueDispatch, options: dict[str, Any], producer: Any) -> OneStep | None:
        """None where the store cannot push, or the dispatch may have something of its own."""
        if (
            lock.locks.server is None
            or lock.own_attempt is not None
            or not (_ALIKE.issuperset(options) and all(isinstance(value, PLAIN_VALUES) for value in options.values()))
            or task.job_options.retry_until is not None
            or task.job_options.debounce_for is not None
            or get_current_worker_task() is not None  # whose child the job is
            or is_seen_by_anyone()
        ):
            return None
        return cls(task, lock, options, producer)

    def send(self, args: Any, kwargs: Any, task_id: str) -> LockAnswer | None:
        """Take the lock and push the message, or learn who holds it; None where Celery is to make the message.

        One call of the store, and two where the last dispatch of the kind was
        suppressed and this one is not.

        Raises:
            TypeError: The arguments do not fit the task.
            EncodeError: The arguments cannot be serialized.
            StoreUnavailableError: The store did not answer. Both have been done, or neither.
        """
        form = self._known.get(self._kind)
        if form is None or form.stencil is None or not form.is_current(self._app, self._producer):
            return None
        if not isinstance(args, (tuple, list)) or not isinstance(kwargs, dict):
            return None
        check_arguments(self._task, args, kwargs)
        if form.was_refused:  # as the next one probably is, for which no message need be made
            answer = self._lock.locks.acquire(self._lock.request)
            if not answer.acquired:
                return answer
        key = quoted(self._lock.request.key)
        message = form.stencil.fill(quoted(task_id), quoted(uuid()), key, args, kwargs)
        answer = self._lock.take_and_push(form.target, message)
        form.was_refused = not answer.acquired
        return answer

    def result(self, task_id: str) -> Any:
        """The result of a job that `send` has sent, as ``apply_async`` returns it."""
        ignored = self._known[self._kind].is_ignored
        if not ignored:
            self._app.backend.on_task_call(None, task_id)
        result = self._task.AsyncResult(task_id)
        result.ignored = ignored
        result.suppressed = False
        return result

    def noting(self, publish: Callable[..., Any]) -> Callable[..., Any]:
        """``publish``, which has Celery make the message, with a look at what it makes."""
        form = self._known.get(self._kind)
        if form is not None and form.is_current(self._app, self._producer):
            return publish  # none can be filled in

        def publish_and_note(**options: Any) -> Any:
            with self._app.producer_or_acquire(self._producer) as producer:
                noting = NotingProducer(producer)
                result = publish(producer=noting, **options)
                self._keep(producer, noting.letters)
            return result

        return publish_and_note

    def _keep(self, producer: Any, letters: list[Letter]) -> None:
        connection = producer.connection
        form = _Form(self._app, connection)
        lost = (*connection.connection_errors, *connection.channel_errors)
        try:
            if len(letters) == 1 and self._can_be_filled_in():
                self._cut(form, producer, letters[0])
        except (CeleryError, KombuError, OSError, *lost):
            logger.debug("No form could be made of a message of %s", self._task.name, exc_info=True)
        for kind, other in list(self._known.items()):
            if not other.is_current(self._app, None):
                del self._known[kind]
        self._known[self._kind] = form

    def _can_be_filled_in(self) -> bool:
        return (
            is_uniform_task(self._task)
            and not may_differ_by_message(self._app)
            and is_made_by_celery_alone(self._app)
            and not self._app.conf.task_always_eager
        )

    def _cut(self, form: _Form, producer: Any, letter: Letter) -> None:
        """Have kombu make the message once more, and take what it would queue."""
        channel, headers = producer.channel, letter.options["headers"]
        form.is_ignored = headers.get("ignore_result")
        if (
            not is_redis(channel)
            or server_of(channel.pool) != self._lock.locks.server
            or getattr(channel, "_expires", None)
            or letter.options.get("exchange")  # which may know other queues tomorrow
            or any(headers.get(name) for name in (*NOT_ALIKE, "expires"))
            or not (form.is_ignored or _calls_without_producer(self._app.backend))
        ):
            return
        outbox = Outbox(producer)
        with outbox.instead_of_queueing(channel):
            producer.publish(letter.body, **{**letter.options, "retry": False})
        if len(outbox.letters) != 1:
            return
        queue, message, _ = outbox.letters[0]
        form.target = getattr(channel, "global_keyprefix", "") + list_of(channel, queue, message)
        form.stencil = Stencil.cut(self._app, channel, queue, message, "unique")


def _calls_without_producer(backend: Any) -> bool:
    """Whether a result backend may be told of a job that has been sent, and needs no producer for it."""
    return type(backend).on_task_call.__module__ in {"celery.backends.base", "celery.backends.redis"}
