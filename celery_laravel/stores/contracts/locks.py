"""What a store does for locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from datetime import timedelta

    from celery_laravel.stores.records import LockAnswer, LockRecord, LockRequest


class LockStore(Protocol):
    """Locks and semaphores whose holds have owners.

    A hold that has expired is no hold: the lock is free, its owner has lost it,
    and it is shown to nobody. Keys and owners are any text of up to 255
    characters.
    """

    @property
    def server(self) -> Hashable | None:
        """The server to whose lists `acquire_and_push` pushes, as `DelayStore.server` names it; None: there is none."""

    def acquire(self, request: LockRequest) -> LockAnswer:
        """Take a lock, or one of its slots, or learn who holds it.

        Who holds it already holds it on, and the expiry, the lease, the kind
        and the task are set anew as the request says; ``taken_at`` stays, and
        so does what was left with it. A request that is refused changes
        nothing, but leaves its ``payload``, if it has one, with the holder that
        it is told of, in place of any that was left before.

        ``slots`` is that of each request: one that finds as many holds as it
        wants slots, or more, is refused.
        """

    def acquire_and_push(self, request: LockRequest, *, target: str, message: str) -> LockAnswer:
        """`acquire`, and push a message to the list ``target`` of the store's server in the same step, if it was taken.

        A call that the store itself repeats, since its answer was lost, pushes
        once, even if the lock has been freed in between. Whoever holds the lock
        already takes it again, and the message is pushed. Only for a store that
        has a `server`.

        Raises:
            NotImplementedError: It has none.
            Exception: What is there under that name is no list. The lock was not taken.
        """

    def confirm(self, key: str, *, owner: str, ttl: timedelta | None) -> None:
        """Let a hold that is not a lease last for ``ttl`` from now, None for ever, if it is still held by ``owner``.

        Nobody waits for the answer where the back end can do without; a crash
        at that moment leaves the hold as it was taken.
        """

    def release(self, keys: Sequence[str], *, owner: str) -> Mapping[str, str | None]:
        """Free the holds of ``owner`` on these locks; return the keys that it held, each with the payload left there.

        A key that it does not hold is left alone, so a second call returns
        nothing. A call that the store itself repeats, since its answer was
        lost, returns what the first one freed.
        """

    def set_aside(self, key: str, to: str, *, owner: str, ttl: timedelta) -> str | None:
        """Free the hold of ``owner`` on a lock, and keep the payload left with it in a hold of its own, named ``to``.

        One step. The answer is what is kept under ``to``: the payload that was
        just moved, or the one that an earlier call moved there. So whoever
        asks again after a crash learns the same, although the lock may have
        another holder by then, who is left alone. Without any payload ``to`` is
        not taken, and the answer is None. The hold on ``to`` lasts for ``ttl``
        from the call that moved a payload, has the kind and the task of the one
        it came from, and is no lease; `release` frees it.
        """

    def release_soon(self, keys: Sequence[str], *, owner: str) -> None:
        """`release`, without waiting for the answer where the back end can do without.

        Whoever is told afterwards, by a message sent later, finds the lock free.
        """

    def release_all(self, owner: str) -> int:
        """Free every hold of an owner whose process is known to be gone; return how many there were."""

    def renew(self, owners: Sequence[str], *, ttl: timedelta) -> int:
        """Extend all leases of these owners to ``ttl`` from now; return how many there were.

        Leases are never shortened. Holds that are not leases, and leases that
        have run out, are left alone.
        """

    def find(self, key: str) -> list[LockRecord]:
        """The holds on one lock, the oldest first; none when it is free."""

    def all(self, *, limit: int | None = None) -> list[LockRecord]:
        """All holds, the oldest first."""

    def free(self, key: str) -> int:
        """Free a lock whoever holds it; return how many holds there were. Its holders are not told."""

    def prune(self) -> int:
        """Remove holds that have expired; return how many: 0 where they go by themselves."""
