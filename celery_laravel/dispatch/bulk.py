"""Sending a slice of a batch: by stencil what is plain, by Celery's own way what is not."""

from __future__ import annotations

import logging
from contextlib import closing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.canvas import Signature

from celery_laravel.dispatch.alike import is_uniform, kind_of, may_differ_by_message
from celery_laravel.dispatch.confirming import Confirming
from celery_laravel.dispatch.connections import send_through
from celery_laravel.dispatch.letters import LetterForm, NotingProducer
from celery_laravel.dispatch.outbox import Outbox
from celery_laravel.dispatch.stencil import Stencil, new_ids
from celery_laravel.message.arguments import check_arguments
from celery_laravel.message.canvas import delay_start, mark_members

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from celery import Celery

logger = logging.getLogger(__name__)

_ALIKE = frozenset(
    {
        "countdown",
        "eta",
        "exchange",
        "expires",
        "ignore_result",
        "priority",
        "queue",
        "routing_key",
        "serializer",
        "soft_time_limit",
        "time_limit",
    }
)
"""Options that say the same of every message they are given for."""


class Member(NamedTuple):
    """A signature on its way into a batch: how many members it makes, and whether it is one task and no more.

    A single task's signature is its user's own, and not to be changed; any
    other is a copy.
    """

    signature: Signature
    size: int
    is_single: bool

    def own(self) -> Signature:
        """The signature, to be changed."""
        return self.signature.clone() if self.is_single else self.signature


class MemberOptions(NamedTuple):
    """What a batch asks of the messages of its members, beside what their signatures ask for themselves."""

    batch_id: str
    queue: str | None = None
    connection: str | None = None
    countdown: float | None = None
    pack: int = 1

    def signature_of(self, app: Celery, member: Member, index: int) -> Signature:
        """The signature by which a member is sent, the first of its tasks having the index given."""
        own = member.own()
        mark_members(own, self.batch_id, index, self.queue)
        if self.countdown:
            delay_start(own, self.countdown)
        if self.connection is not None and not member.is_single:  # Celery's canvas forgets the producer
            send_through(app, own, self.connection)
        return own


def is_single(item: Any) -> bool:
    """Whether an item is one task and nothing that surrounds or follows it, so that it need not be looked into."""
    return type(item) is Signature and not item.get("subtask_type") and _ALIKE.issuperset(item["options"])


class BulkPublisher:
    """Publishes members of one batch through one producer, which must be the caller's own.

    Where the transport can queue many messages at a time, the single tasks of a
    call of `publish` go out together, all or none, and the canvas after them,
    one by one. Where the broker confirms messages, the single tasks come first
    too, and their confirmations are waited for together; elsewhere all go out
    one by one, in order. Of plain tasks of one kind, Celery makes the first
    message, and the others are filled in. ``sent`` are the positions of those that went out,
    should `publish` raise.
    """

    def __init__(self, app: Celery, producer: Any, asked: MemberOptions) -> None:
        self._app = app
        self._producer = producer
        self._asked = asked
        self._outbox = Outbox(producer) if Outbox.serves(producer) else None
        self._ids = new_ids()
        self._may_differ = may_differ_by_message(app)
        self._stencils: dict[Hashable, Stencil | None] = {}
        self._forms: dict[Hashable, LetterForm | None] = {}
        self.sent: list[int] = []

    def publish(self, members: Sequence[Member], indices: Sequence[int]) -> None:
        """Send members, each the first of its tasks having the index given.

        Raises:
            Exception: Whatever Celery or the broker raises.
        """
        self.sent = []
        self._forms.clear()  # as the stencils: what is counted from now is counted from when its slice is sent
        singles = [position for position, member in enumerate(members) if member.is_single]
        if self._outbox is not None:
            self._publish_at_once(self._outbox, singles, members, indices)
        elif singles and Confirming.serves(self._producer):
            self._publish_confirmed(singles, members, indices)
        else:
            singles = []
        if len(singles) < len(members):
            self._publish_each(sorted(set(range(len(members))).difference(singles)), members, indices)

    def _publish_at_once(
        self, outbox: Outbox, singles: Sequence[int], members: Sequence[Member], indices: Sequence[int]
    ) -> None:
        self._stencils.clear()  # a countdown is counted from when its slice is sent
        with outbox.collecting():
            for position in singles:
                self._collect(outbox, members[position], indices[position])
        outbox.send()
        self.sent += singles

    def _publish_confirmed(self, singles: Sequence[int], members: Sequence[Member], indices: Sequence[int]) -> None:
        """Send single tasks; those that are not confirmed are sent once more, under the same ids, as Celery would."""
        failure, ids, called = None, {}, []
        try:
            together = Confirming(self._app, self._producer)
        except Confirming.lost_by(self._producer):
            logger.debug("A batch's dispatch found its connection lost; it makes another", exc_info=True)
            self._publish_each(singles, members, indices)
            return
        with closing(together) as confirming:
            try:
                for position in singles:
                    ids[position] = next(self._ids)
                    confirming.begin(position)
                    asked = {"task_id": ids[position], "retry": False}
                    self._send_single(members[position], indices[position], confirming.producer, asked)
                    called.append(position)
            except confirming.errors:
                logger.debug("A batch's dispatch has lost its channel; it goes on through another", exc_info=True)
            except Exception as error:
                failure = error
            lost = confirming.unconfirmed()
        self.sent += [position for position in called if position not in lost]
        if failure is not None:
            raise failure
        for position in sorted(set(singles).difference(self.sent)):
            self._by_celery(members[position], indices[position], task_id=ids.get(position) or next(self._ids))
            self.sent.append(position)

    def _publish_each(self, positions: Iterable[int], members: Sequence[Member], indices: Sequence[int]) -> None:
        for position in positions:
            if members[position].is_single:
                self._send_single(members[position], indices[position], self._producer)
            else:
                self._by_celery(members[position], indices[position])
            self.sent.append(position)

    def _send_single(
        self, member: Member, index: int, producer: Any, asked: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Send a single task's message: the first of its kind by Celery, the others by its form if they are alike."""
        signature = member.signature
        kind = kind_of(signature)
        form = self._forms.get(kind)
        if form is not None:
            task_id = asked.get("task_id") or next(self._ids)
            form.publish(producer, self._app.tasks[signature["task"]], task_id, index, signature)
        elif kind in self._forms or self._may_differ or not is_uniform(self._app, signature):
            self._forms[kind] = None
            self._by_celery(member, index, producer, **asked)
        else:
            noting = NotingProducer(producer)
            self._by_celery(member, index, noting, **asked)
            retry = bool(asked.get("retry", self._app.conf.task_publish_retry))
            self._forms[kind] = LetterForm.of(self._app, noting.letters, signature, retry=retry)

    def _collect(self, outbox: Outbox, member: Member, index: int) -> None:
        signature = member.signature
        kind = kind_of(signature)
        if kind not in self._stencils:
            self._stencils[kind] = self._first_of_its_kind(outbox, member, index)
            return
        stencil = self._stencils[kind]
        if stencil is None:
            self._by_celery(member, index)
            return
        task, args, kwargs = self._app.tasks[signature["task"]], signature["args"], signature["kwargs"]
        check_arguments(task, args, kwargs)
        task_id, tag = f'"{next(self._ids)}"', f'"{next(self._ids)}"'
        outbox.add(stencil, stencil.fill(task_id, tag, str(index), args, kwargs))

    def _first_of_its_kind(self, outbox: Outbox, member: Member, index: int) -> Stencil | None:
        """Have Celery make a message, and cut a stencil of it if the others may be made alike."""
        before = len(outbox.letters)
        self._by_celery(member, index)
        if self._may_differ or not is_uniform(self._app, member.signature) or len(outbox.letters) != before + 1:
            return None
        queue, message, _ = outbox.letters[-1]
        return Stencil.cut(self._app, self._producer.channel, queue, message, "index")

    def _by_celery(self, member: Member, index: int, producer: Any = None, **options: Any) -> None:
        signature = self._asked.signature_of(self._app, member, index)
        signature.apply_async(producer=producer or self._producer, **options)
