"""Locks on Redis: a hash of holds a lock, and indices of them by age, by end and by owner."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from celery_laravel.stores.instants import MICROSECOND, SECOND, as_datetime
from celery_laravel.stores.records import LockAnswer, LockRecord
from celery_laravel.stores.redis.keys import MEMORY_OF_CALLS, new_token
from celery_laravel.stores.redis.scripts import script

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from celery_laravel.stores.records import LockRequest
    from celery_laravel.stores.redis.cluster import ClusterConnections
    from celery_laravel.stores.redis.connections import Connections
    from celery_laravel.stores.redis.keys import Keys
    from celery_laravel.stores.redis.scripts import Argument

PAGE = 200
MEMORY_OF_PUSHES = timedelta(seconds=20) // timedelta(milliseconds=1)
"""Longer than a call is repeated for; there is one such memory for each push."""

_ACQUIRE, _ACQUIRE_AND_PUSH = script("acquire"), script("acquire_and_push")
_CONFIRM, _RELEASE = script("confirm_lock"), script("release")
_SET_ASIDE, _OWNED, _RENEW = script("set_aside"), script("owned"), script("renew_locks")
_TAKEN, _HOLDS = script("taken"), script("holds")
_FREE, _SWEEP = script("free_lock"), script("sweep_locks")

Item = TypeVar("Item")


class RedisLockStore:
    """A `LockStore` on Redis. All its keys lie together, on one node of a cluster.

    `renew`, `release_all`, `free` and `all` ask for the names first, and act on
    them in a second call, so that each key a script touches is told to it. What
    was taken between the two is left alone.
    """

    def __init__(self, connections: Connections | ClusterConnections, keys: Keys) -> None:
        self._connections = connections
        self._keys = keys
        self.server = connections.server

    def acquire(self, request: LockRequest) -> LockAnswer:
        return _answer(self._connections.call(_ACQUIRE, self.request_keys(request), request_arguments(request)))

    def acquire_and_push(self, request: LockRequest, *, target: str, message: str) -> LockAnswer:
        if self.server is None:
            raise NotImplementedError("On a cluster the lists of a broker lie on other nodes than the locks.")
        keys = (*self.request_keys(request), target, self._keys.lock_call())
        arguments = (*request_arguments(request), message, MEMORY_OF_PUSHES)
        return _answer(self._connections.call(_ACQUIRE_AND_PUSH, keys, arguments))

    def confirm(self, key: str, *, owner: str, ttl: timedelta | None) -> None:
        self._connections.post(_CONFIRM, (*self._held_by(owner), self._keys.lock(key)), (key, owner, _lasts(ttl)))

    def release(self, keys: Sequence[str], *, owner: str) -> Mapping[str, str | None]:
        freed: dict[str, str | None] = {}
        for some in _pages(dict.fromkeys(keys)):
            script_keys, arguments = self._releasing(some, owner, MEMORY_OF_CALLS)
            answers = self._connections.call(_RELEASE, script_keys, arguments)
            for key, answer in zip(some, answers, strict=True):
                if answer != 0:
                    freed[key] = None if answer == 1 else answer.decode()
        return freed

    def release_soon(self, keys: Sequence[str], *, owner: str) -> None:
        for some in _pages(dict.fromkeys(keys)):
            self._connections.post(_RELEASE, *self._releasing(some, owner, 0))

    def release_all(self, owner: str) -> int:
        names = self._connections.command("ZRANGE", self._keys.lock_owner(owner), 0, -1)
        return len(self.release([name.decode() for name in names], owner=owner))

    def set_aside(self, key: str, to: str, *, owner: str, ttl: timedelta) -> str | None:
        keys = (*self._held_by(owner), self._keys.lock(key), self._keys.lock(to))
        kept = self._connections.call(_SET_ASIDE, keys, (key, to, owner, ttl // MICROSECOND))
        return None if kept is None else str(kept.decode())

    def renew(self, owners: Sequence[str], *, ttl: timedelta) -> int:
        renewed = 0
        for pairs in _pages(self._held(owners)):
            keys = list(self._indices)
            arguments: list[Argument] = [ttl // MICROSECOND]
            for owner, name in pairs:
                keys += [self._keys.lock_owner(owner), self._keys.lock(name)]
                arguments += [name, owner]
            renewed += self._connections.call(_RENEW, keys, arguments)
        return renewed

    def find(self, key: str) -> list[LockRecord]:
        return _oldest_first(self._holds([key]))

    def all(self, *, limit: int | None = None) -> list[LockRecord]:
        found: list[LockRecord] = []
        for places in self._places():
            if limit is not None and len(found) >= limit:
                break
            owned = {_name_and_owner(place) for place in places}
            names = dict.fromkeys(name for name, _ in owned)
            found += [hold for hold in self._holds(list(names)) if (hold.key, hold.owner) in owned]
        return _oldest_first(found)[:limit]

    def free(self, key: str) -> int:
        holders = [self._keys.lock_owner(hold.owner) for hold in self.find(key)]
        keys = (*self._indices, self._keys.lock_call(), self._keys.lock(key), *holders)
        return int(self._connections.call(_FREE, keys, (MEMORY_OF_CALLS, key)))

    def prune(self) -> int:
        """Clear the indices of holds that have ended, which are gone already; so this returns 0."""
        while self._connections.call(_SWEEP, self._indices, ()):
            pass
        return 0

    def request_keys(self, request: LockRequest) -> tuple[str, ...]:
        """What the scripts that take a lock touch."""
        return (*self._held_by(request.owner), self._keys.lock(request.key))

    @property
    def _indices(self) -> tuple[str, str]:
        return self._keys.locks_taken, self._keys.locks_ends

    def _held_by(self, owner: str) -> tuple[str, str, str]:
        return (*self._indices, self._keys.lock_owner(owner))

    def _releasing(self, names: Sequence[str], owner: str, memory: int) -> tuple[Sequence[str], Sequence[Argument]]:
        locks = [self._keys.lock(name) for name in names]
        return (*self._held_by(owner), self._keys.lock_call(), *locks), (owner, memory, *names)

    def _held(self, owners: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Pairs of owner and name: what these owners are known to hold."""
        for some in _pages(dict.fromkeys(owners)):
            answers = self._connections.call(_OWNED, [self._keys.lock_owner(owner) for owner in some], ())
            for owner, names in zip(some, answers, strict=True):
                for name in names:
                    yield owner, name.decode()

    def _places(self) -> Iterator[list[bytes]]:
        """All holds as the index has them, the oldest first, by pages."""
        start, seen_there = b"-inf", 0
        while page := self._connections.call(_TAKEN, (self._keys.locks_taken,), (start, seen_there, PAGE)):
            yield page[::2]
            last = page[-1]
            seen_there = page[1::2].count(last) + (seen_there if last == start else 0)
            start = last  # again, for others that were taken in the same microsecond

    def _holds(self, names: Sequence[str]) -> list[LockRecord]:
        records: list[LockRecord] = []
        for some in _pages(names):
            answers = self._connections.call(_HOLDS, [self._keys.lock(name) for name in some], ())
            for name, answer in zip(some, answers, strict=True):
                records += _records(name, answer)
        return records


def request_arguments(request: LockRequest) -> tuple[Argument, ...]:
    """What the scripts that take a lock are told."""
    return (
        request.key,
        request.owner,
        request.kind,
        request.task,
        _lasts(request.ttl),
        int(request.is_lease),
        request.slots,
        int(request.payload is not None),
        request.payload or "",
        new_token(),
    )


def _answer(text: bytes) -> LockAnswer:
    taken, held, lasts, owner = text.split(b" ", 3)
    expires_in = None if lasts == b"-" else int(lasts) / SECOND
    return LockAnswer(taken == b"1", owner.decode(), expires_in, was_held=held == b"1")


def _lasts(ttl: timedelta | None) -> Argument:
    return "-" if ttl is None else ttl // MICROSECOND


def _records(name: str, answer: Sequence[bytes]) -> Iterator[LockRecord]:
    for owner, times, kind, task in zip(answer[::4], answer[1::4], answer[2::4], answer[3::4], strict=True):
        ends, taken, is_lease = times.split()
        yield LockRecord(
            key=name,
            owner=owner.decode(),
            kind=kind.decode(),
            task=task.decode(),
            taken_at=as_datetime(int(taken)),
            expires_at=None if ends == b"-" else as_datetime(int(ends)),
            is_lease=is_lease == b"1",
        )


def _oldest_first(records: Iterable[LockRecord]) -> list[LockRecord]:
    return sorted(records, key=lambda record: record.taken_at)


def _name_and_owner(place: bytes) -> tuple[str, str]:
    length, _, rest = place.partition(b":")
    return rest[: int(length)].decode(), rest[int(length) :].decode()


def _pages(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = list(items)
    for start in range(0, len(rest), PAGE):
        yield rest[start : start + PAGE]
