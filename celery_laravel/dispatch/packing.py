"""Sending a slice of a batch packed: many small members in one message, others in messages of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery.utils import uuid

from celery_laravel.dispatch.alike import is_uniform, kind_of, may_differ_by_message
from celery_laravel.dispatch.letters import Letter
from celery_laravel.dispatch.stencil import new_ids
from celery_laravel.errors import ConfigurationError
from celery_laravel.message.arguments import check_arguments
from celery_laravel.message.packs import CARRIER, MOST, address_of, kind_of_message, may_be_packed

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from celery import Celery

    from celery_laravel.dispatch.bulk import Member, MemberOptions

PACK = "pack"
"""The option of a batch that says how many members may travel in one message."""

_GOING_ALONE = frozenset({"countdown", "eta", "expires", "chain", "chord", "group_id", "stamped_headers"})
_STRATEGY = "celery_laravel.worker.strategy:job_strategy"
_REQUEST = "celery_laravel.worker.request:JobRequest"


def check_size(app: Celery, size: Any) -> int:
    """The number given to ``pack``.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is none from 1 to `MOST`.
        ConfigurationError: The app has no task for packs, as `install` has not been called.
    """
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"pack({size!r}): give the number of members that one message may carry.")
    if not 1 <= size <= MOST:
        raise ValueError(f"pack({size!r}): one message may carry 1 to {MOST:,} members.")
    if CARRIER not in app.tasks:
        msg = f"pack({size}): the app {app.main!r} has no task for packs. Call install(app) where it is made."
        raise ConfigurationError(msg)
    return size


def size_of(options: Mapping[str, Any]) -> int:
    """How many members of a batch with these options may travel in one message."""
    size = options.get(PACK)
    if isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= MOST:
        return size
    return 1  # a user's own option may have that name


def packs(app: Celery, asked: MemberOptions) -> bool:
    """Whether members are to be packed, by an app that can."""
    return asked.pack > 1 and CARRIER in app.tasks


class _Mail:
    """What a kind of members has in common: where they go, and what `read_pack` makes their requests of."""

    def __init__(self, letter: Letter, *, keeps_texts: bool) -> None:
        self.address = address_of(letter.options)
        self.kind = kind_of_message(letter.body, letter.options, keeps_texts=keeps_texts)


@dataclass(eq=False)
class _Pack:
    """A pack that is being filled. ``positions`` are those of its members, ``letter`` is the first one's message."""

    address: dict[str, Any]
    kinds: list[dict[str, Any]] = field(default_factory=list)
    numbers: dict[_Mail, int] = field(default_factory=dict)
    members: list[tuple[int, str, int, Any, Any]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    letters: dict[int, Letter] = field(default_factory=dict)

    def number_of(self, mail: _Mail) -> int:
        number = self.numbers.get(mail)
        if number is None:
            number = self.numbers[mail] = len(self.kinds)
            self.kinds.append(mail.kind)
        return number


class PackingPublisher:
    """Publishes members of one batch through one producer, so many of one queue in a message.

    ``sent`` are the positions of those that went out, should `publish` raise. A
    member whose message has anything to say where it is taken from its queue
    (`may_be_packed`), or whose task has a say there (`_may_travel`), goes alone.
    """

    def __init__(self, app: Celery, producer: Any, asked: MemberOptions) -> None:
        self._app = app
        self._producer = producer
        self._asked = asked
        self._ids = new_ids()
        self._may_differ = may_differ_by_message(app)
        self._mails: dict[Hashable, _Mail | None] = {}
        self._packs: list[_Pack] = []
        self._of_mail: dict[_Mail, _Pack] = {}
        self.sent: list[int] = []

    def publish(self, members: Sequence[Member], indices: Sequence[int]) -> None:
        """Send members, each the first of its tasks having the index given.

        Raises:
            Exception: Whatever Celery or the broker raises.
        """
        self.sent, self._packs = [], []
        self._of_mail.clear()
        self._mails.clear()
        for position, (member, index) in enumerate(zip(members, indices, strict=True)):
            self._take(position, member, index)
        for pack in self._packs:
            self._send(pack)

    def _take(self, position: int, member: Member, index: int) -> None:
        if member.size != 1 or not _may_travel(self._app, member.signature):
            self._by_celery(member, index, self._producer)
            self.sent.append(position)
            return
        kind = kind_of(member.signature) if member.is_single else None
        mail = self._mails.get(kind) if kind is not None else None
        if mail is None:
            self._take_letter(position, member, index, kind)
            return
        signature = member.signature
        task, args, kwargs = self._app.tasks[signature["task"]], signature["args"], signature["kwargs"]
        check_arguments(task, args, kwargs)
        self._put(mail, position, next(self._ids), index, args, kwargs)

    def _take_letter(self, position: int, member: Member, index: int, kind: Hashable | None) -> None:
        """Have Celery make the member's message, and put it into a pack if it may travel so."""
        catcher = _Catcher(self._producer)
        self._by_celery(member, index, catcher)
        if len(catcher.letters) != 1 or not may_be_packed(*catcher.letters[0]):
            for letter in catcher.letters:
                self._producer.publish(letter.body, **letter.options)
            self.sent.append(position)
            return
        letter = catcher.letters[0]
        is_pattern = kind is not None and not self._may_differ and is_uniform(self._app, member.signature)
        mail = _Mail(letter, keeps_texts=not is_pattern)
        if is_pattern:
            self._mails[kind] = mail
        args, kwargs, _ = letter.body
        self._put(mail, position, letter.options["headers"]["id"], index, args, kwargs, letter)

    def _put(  # noqa: PLR0917  the parts of one member
        self, mail: _Mail, position: int, job_id: str, index: int, args: Any, kwargs: Any, letter: Letter | None = None
    ) -> None:
        pack = self._of_mail.get(mail)
        if pack is None:
            pack = next((pack for pack in self._packs if pack.address == mail.address), None) or _Pack(mail.address)
            if not pack.members:
                self._packs.append(pack)
            self._of_mail[mail] = pack
        if letter is not None:
            pack.letters[len(pack.members)] = letter
        pack.members.append((pack.number_of(mail), job_id, index, args, kwargs))
        pack.positions.append(position)
        if len(pack.members) == self._asked.pack:
            self._packs.remove(pack)
            self._of_mail = {kept: other for kept, other in self._of_mail.items() if other is not pack}
            self._send(pack)

    def _send(self, pack: _Pack) -> None:
        if len(pack.members) == len(pack.letters) == 1:
            self._producer.publish(pack.letters[0].body, **pack.letters[0].options)
        else:
            self._publish(pack)
        self.sent += pack.positions

    def _publish(self, pack: _Pack) -> None:
        content = {"batch": self._asked.batch_id, "kinds": pack.kinds, "members": pack.members}
        shown = f"<{len(pack.members)} members of batch {self._asked.batch_id}>"
        message = self._app.amqp.create_task_message(
            uuid(), CARRIER, (), content, ignore_result=True, argsrepr="()", kwargsrepr=shown
        )
        properties = {key: value for key, value in message.properties.items() if key != "reply_to"}
        self._producer.publish(message.body, **{**pack.address, **properties, "headers": message.headers})

    def _by_celery(self, member: Member, index: int, producer: Any) -> None:
        self._asked.signature_of(self._app, member, index).apply_async(producer=producer)


class _Catcher:
    """A producer that keeps the messages of tasks, and sends everything else."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self.letters: list[Letter] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **options: Any) -> Any:
        if "task" not in (options.get("headers") or {}):
            return self._producer.publish(body, **options)
        self.letters.append(Letter(body, options))
        return None


def _may_travel(app: Celery, signature: Mapping[str, Any]) -> bool:
    """Whether a signature and its task leave it open when, and beside what, the job is started.

    A task that is limited in its rate, or that has a request or strategy of its
    user's own, has its say when a message is taken from its queue; one that is
    acknowledged early must never start twice, as a member of a pack may.
    """
    if signature.get("subtask_type") or _GOING_ALONE.intersection(signature["options"]):
        return False
    task: Any = app.tasks.get(signature["task"])
    if task is None:  # a worker may know it
        return True
    if not hasattr(task, "job_options") or task.name.startswith("celery."):
        return False
    is_early = task.declares_acks_late and not task.acks_late
    return not is_early and task.rate_limit is None and (task.Strategy, task.Request) == (_STRATEGY, _REQUEST)
