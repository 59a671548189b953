"""Messages as Celery hands them to a producer, and others of their kind that are handed to it without Celery.

Where a transport sends messages one by one, as AMQP does, most of what Celery
takes for one is spent before kombu gets it. Here Celery makes the first message
of a kind, and the others are what it handed over, with what differs filled in:
the id, the member's index, the arguments. All that kombu does then is as it
was: serializing, compressing, declaring queues, trying again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from celery_laravel.dispatch.stencil import Texts
from celery_laravel.message.arguments import check_arguments
from celery_laravel.message.header import NAME
from celery_laravel.message.packs import MEMBERS_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOT_ALIKE = ("eta", "group", "stamps")
"""Headers that tell of a message whose route, or place in a canvas, is its own."""


class Letter(NamedTuple):
    """A message that Celery was about to publish: what it gives to `kombu.Producer.publish`."""

    body: Any
    options: dict[str, Any]


class NotingProducer:
    """A producer that publishes, and notes what."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self.letters: list[Letter] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **options: Any) -> Any:
        """Publish a message; kombu may add to its headers, which is not noted."""
        self.letters.append(Letter(body, {**options, "headers": dict(options.get("headers") or {})}))
        return self._producer.publish(body, **options)


class LetterForm:
    """A batch member's message as Celery hands it over, to be filled in for another member of the kind."""

    def __init__(self, app: Any, letter: Letter) -> None:
        headers = letter.options["headers"]
        self._app = app
        self._headers = headers
        self._shown = Texts(app)
        self._options = {key: value for key, value in letter.options.items() if key != "headers"}
        self._same = [key for key, value in headers.items() if value == headers["id"]]
        self._own = headers[NAME]
        self._follows = letter.body[2]
        self._on_call = None if headers.get("ignore_result") else app.backend.on_task_call

    @classmethod
    def of(cls, app: Any, letters: Sequence[Letter], signature: Mapping[str, Any], *, retry: bool) -> LetterForm | None:
        """The form of a member's message, if it is the only one and others can be made like it.

        ``retry`` is whether kombu is to try again: should Celery have decided
        otherwise, it does so by itself.
        """
        if len(letters) != 1 or not _is_plain(letters[0]) or bool(letters[0].options.get("retry")) != retry:
            return None
        letter = letters[0]
        form, task_id = cls(app, letter), letter.options["headers"]["id"]
        if form.fill(task_id, form._own.get("index"), signature["args"], signature["kwargs"]) != letter:
            return None
        if task_id in repr(form.fill("", 0, (), {})):  # in a place that is not known here
            return None
        return form

    def fill(self, task_id: str, index: int, args: Any, kwargs: Any) -> Letter:
        """The message of another member."""
        args, kwargs = tuple(args or ()), kwargs or {}
        headers = {**self._headers, **dict.fromkeys(self._same, task_id), NAME: {**self._own, "index": index}}
        headers["argsrepr"], headers["kwargsrepr"] = self._shown.of(args, kwargs)
        return Letter((args, kwargs, self._follows), {**self._options, "headers": headers, "correlation_id": task_id})

    def publish(self, producer: Any, task: Any, task_id: str, index: int, signature: Mapping[str, Any]) -> None:
        """Send another member's message, as `Celery.send_task` does.

        Raises:
            Exception: Whatever kombu or the broker raises.
        """
        args, kwargs = signature["args"], signature["kwargs"]
        check_arguments(task, args, kwargs)
        body, options = self.fill(task_id, index, args, kwargs)
        with producer.connection._reraise_as_library_errors():  # noqa: SLF001  as Celery does
            if self._on_call is not None:
                self._on_call(producer, task_id)
            producer.publish(body, **options)
        parent = self._app.current_worker_task
        if parent is not None:
            parent.add_trail(task.AsyncResult(task_id))


def _is_plain(letter: Letter) -> bool:
    """Whether a message differs from others of its kind in nothing but id, index and arguments."""
    headers, body = letter.options["headers"], letter.body
    return (
        isinstance(body, tuple)
        and len(body) == 3  # noqa: PLR2004  arguments, keyword arguments, what follows
        and not any(body[2].values())
        and bool(headers.get("id"))
        and not any(headers.get(name) for name in NOT_ALIKE)
        and MEMBERS_HEADER.issuperset(headers.get(NAME) or {"no": "header"})
    )
