"""Jobs on their way into a batch: taken from any iterable, counted before they are sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any

from celery import Task, chain
from celery.canvas import Signature

from celery_laravel.dispatch.bulk import BulkPublisher, Member, MemberOptions, is_single
from celery_laravel.dispatch.closures import PendingClosure
from celery_laravel.dispatch.connections import producers_of
from celery_laravel.dispatch.ending import Ending, Taken, address_of, end_surely
from celery_laravel.dispatch.packing import PackingPublisher, packs, size_of
from celery_laravel.errors import BatchDispatchError, ConfigurationError, StoreUnavailableError
from celery_laravel.message.canvas import tasks_of
from celery_laravel.message.header import read_header
from celery_laravel.settings import settings_of
from celery_laravel.stores.records import DispatchEnd, MemberEnd, MemberState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import BatchChange, BatchRecord

logger = logging.getLogger(__name__)

SLICE = 1000
"""Signatures that are held in memory, counted and published together."""


@dataclass
class Dispatch:
    """What has become of the jobs on their way into a batch."""

    asked: MemberOptions
    sent: int = 0
    """Signatures that went out."""
    members: int = 0
    """Members that were added for them."""
    end: int = 0
    """The index after the last of those."""
    last: Member | None = None

    def end_surely(self, app: Celery, store: Store, end: DispatchEnd) -> Ending:
        """Write down how it ended; see `ending.end_surely`."""
        return end_surely(app, store, end, lambda: address_of(app, self.asked, self.last), self.asked.connection)


def publish_members(
    app: Celery,
    store: Store,
    batch: BatchRecord,
    signatures: Any,
    *,
    on_progress: Callable[[int], Any] | None = None,
    on_start: Callable[[], Any] | None = None,
    countdown: float | None = None,
    on_end: Callable[[BatchChange], Any] | None = None,
) -> Dispatch:
    """Add jobs to a batch and send them, slice by slice; return how far that has come.

    The batch grows by a slice before the slice's messages go out, so no member
    can end before it is counted. ``on_start`` is called before that, once the
    first slice has been found in order; ``on_progress`` after each slice, with
    how many signatures have been sent so far. ``countdown`` is that of members
    which name none. Queue and connection are among the batch's options. With
    ``on_end``, a dispatch that fails midway closes the batch, and what that
    changed is given to it.

    Raises:
        TypeError: The very first slice holds something that is no signature; nothing was added.
        ConfigurationError: It holds a task that is no job; nothing was added.
        StoreUnavailableError: The store did not answer, and nothing was sent.
        BatchFinishedError: The batch has finished; nothing was sent.
        BatchNotFoundError: It is not known; nothing was sent.
        OperationalError: The broker cannot be reached; nothing was added.
        BatchDispatchError: Something failed later. The batch has been
            cancelled, and the members that were not sent, or the one that
            could not be taken from the iterable, are counted as never to run;
            or that is still to be done, as the error says.
    """
    asked = options_for(batch, countdown)
    producers_of(app, asked.connection)
    slices = _slices(app, signatures)
    members = next(slices, None)
    if on_start is not None:
        on_start()
    dispatch = Dispatch(asked)
    broken = DispatchEnd(batch.id, closes=on_end is not None, cancels=True, is_incomplete=True)
    while members is not None:
        size = sum(member.size for member in members)
        try:
            with sending(app, store, asked) as send:
                first = store.batches.add(batch.id, size)
                dispatch.last = members[0]
                unsent = send(members, first)
        except Exception as error:
            if not dispatch.sent:
                raise
            if isinstance(error, StoreUnavailableError):
                broken = replace(broken, lost=(dispatch.end, size))
            raise _broken_off(app, store, dispatch, broken, on_end) from error
        if unsent is not None:
            dispatch.sent += len(unsent.sent)
            broken = replace(broken, unsent=_not_among(unsent.sent, members, first))
            raise _broken_off(app, store, dispatch, broken, on_end) from unsent.error
        dispatch.sent += len(members)
        dispatch.members += size
        dispatch.end = first + size
        try:
            if on_progress is not None:
                on_progress(dispatch.sent)
            members = next(slices, None)
        except Exception as error:
            raise _broken_off(app, store, dispatch, broken, on_end) from error
    return dispatch


def options_for(batch: BatchRecord, countdown: float | None) -> MemberOptions:
    """What a batch asks of its members' messages."""
    options = batch.options
    pack = 1 if countdown else size_of(options)
    return MemberOptions(batch.id, options.get("queue"), options.get("connection"), countdown, pack)


def members_of_batch(app: Celery, signatures: Any) -> list[Member]:
    """All members at once, of a batch that is known to be small.

    Raises:
        TypeError: There is something that is no signature.
        ConfigurationError: There is a task that is no job.
    """
    return [member for members in _slices(app, signatures) for member in members]


@contextmanager
def sending(app: Celery, store: Store, asked: MemberOptions) -> Iterator[Send]:
    """Lend what sends members that have been added; it takes them, and the index of the first of them.

    It returns what went wrong, if anything did. The broker has been connected
    to: whoever adds members now does not add what there is nobody to take.

    Raises:
        Exception: The broker's error; it cannot be reached, and nothing was sent.
    """
    if app.conf.task_always_eager:
        yield partial(_send_eagerly, app, store, asked)
        return
    with producers_of(app, asked.connection).acquire(block=True) as producer:
        _ = producer.channel  # connects
        publisher = (PackingPublisher if packs(app, asked) else BulkPublisher)(app, producer, asked)
        yield partial(_send, publisher)


def as_signature(app: Celery, item: Any, position: int | str) -> Signature:
    """A member as a signature of its own: a list is a chain, a mapping a signature as data, a function a closure.

    Raises:
        TypeError: It is none of these; the message says which one and what to write.
    """
    if isinstance(item, (list, tuple)) and item:
        return chain(*(as_signature(app, step, f"{position}[{i}]") for i, step in enumerate(item)), app=app)
    if isinstance(item, Signature):
        return item.clone()
    if not isinstance(item, Task) and callable(getattr(item, "signature", None)):  # it is being built
        return item.signature()
    if isinstance(item, Mapping) and "task" in item:
        return Signature.from_dict(dict(item), app=app).clone()
    if callable(item) and not isinstance(item, Task) and settings_of(app).secret_key:
        return PendingClosure(app, item).signature()
    hint = (
        f"Did you mean {item.name}.s(…)?"
        if isinstance(item, Task)
        else "Give task.s(…), task.si(…), or a list of them for a chain."
    )
    msg = f"Job {position} of the batch is {item!r}, which is no signature. {hint}"
    raise TypeError(msg)


@dataclass(frozen=True)
class Unsent:
    """Publishing a slice ended with ``error``; ``sent`` are the positions of the signatures that went out."""

    sent: Sequence[int]
    error: Exception


Send = Callable[[list[Member], int], "Unsent | None"]


def _send(publisher: PackingPublisher | BulkPublisher, members: list[Member], first: int) -> Unsent | None:
    try:
        publisher.publish(members, _indices(members, first))
    except Exception as error:
        return Unsent(publisher.sent, error)
    return None


def _send_eagerly(app: Celery, store: Store, asked: MemberOptions, members: list[Member], first: int) -> Unsent | None:
    for position, (member, index) in enumerate(zip(members, _indices(members, first), strict=True)):
        try:
            _run_eagerly(app, store, asked.signature_of(app, member, index))
        except Exception as error:
            return Unsent(range(position), error)
    return None


def _slices(app: Celery, signatures: Any) -> Iterator[list[Member]]:
    if isinstance(signatures, (Signature, Mapping)):
        signatures = [signatures]
    if not isinstance(signatures, Iterable) or isinstance(signatures, str):
        msg = f"A batch takes signatures, not {signatures!r}. Give a list or a generator of task.s(…)."
        raise TypeError(msg)
    numbered = enumerate(signatures)
    while chunk := [_member(app, item, position) for position, item in islice(numbered, SLICE)]:
        _refuse_uncounted(app, chunk)
        yield chunk


def _member(app: Celery, item: Any, position: int) -> Member:
    if is_single(item):
        return Member(item, 1, is_single=True)
    signature = as_signature(app, item, position)
    return Member(signature, sum(1 for _ in tasks_of(signature)), is_single=False)


def _refuse_uncounted(app: Celery, members: list[Member]) -> None:
    """Refuse tasks of an app without the library: they would run, and their batch wait for ever."""
    names = {member.signature["task"] for member in members if member.is_single}
    names.update(task["task"] for member in members if not member.is_single for task in tasks_of(member.signature))
    for name in names:
        task = app.tasks.get(name)  # unknown here, it may be known to a worker
        if task is not None and not name.startswith("celery.") and not hasattr(task, "job_options"):
            msg = (
                f"Task {name!r} is a plain task of Celery's, so that its batch could not count it and would wait for "
                f"ever. Call install(app) where the app {app.main!r} is made."
            )
            raise ConfigurationError(msg)


def _run_eagerly(app: Celery, store: Store, member: Signature) -> None:
    """Run a member at once (``task_always_eager``).

    A task that fails is counted by its own attempt, so its exception is kept
    from the dispatch unless ``task_eager_propagates`` asks for it. Celery's
    eager chain forgets the steps after a failed one: they are counted here.
    """
    try:
        member.apply_async()
    except Exception:
        if app.conf.task_eager_propagates:
            raise
        logger.debug("A member failed while the batch was dispatched eagerly", exc_info=True)
    finally:
        for task in tasks_of(member):
            header = read_header(task["options"]["headers"])
            if header.batch_id is not None and header.index is not None:
                store.batches.end_member(MemberEnd(header.batch_id, header.index, "", MemberState.SKIPPED))


def _broken_off(
    app: Celery, store: Store, dispatch: Dispatch, end: DispatchEnd, on_end: Callable[[BatchChange], Any] | None
) -> BatchDispatchError:
    ending = dispatch.end_surely(app, store, end)
    if ending.taken is Taken.NOBODY:
        return BatchDispatchError(end.batch_id, dispatch.sent, "open" if end.closes else "uncancelled", end.unsent)
    if ending.taken is Taken.BROKER:
        return BatchDispatchError(end.batch_id, dispatch.sent, "kept")
    if on_end is not None and ending.change is not None:
        on_end(ending.change)
    return BatchDispatchError(end.batch_id, dispatch.sent)


def _not_among(sent: Sequence[int], members: list[Member], first: int) -> tuple[tuple[int, int], ...]:
    """The members of a slice that were not sent, as ranges of indices."""
    went_out = set(sent)
    ranges: list[tuple[int, int]] = []
    for position, (index, member) in enumerate(zip(_indices(members, first), members, strict=True)):
        if position in went_out:
            continue
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1] = (ranges[-1][0], index + member.size - 1)
        else:
            ranges.append((index, index + member.size - 1))
    return tuple(ranges)


def _indices(members: list[Member], first: int) -> list[int]:
    """The index of the first task of each member."""
    return list(accumulate((member.size for member in members[:-1]), initial=first))
