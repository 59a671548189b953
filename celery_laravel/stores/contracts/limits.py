"""What a store does for limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_laravel.stores.records import LimitAnswer, Slot, Window, WindowState


class LimitStore(Protocol):
    """Starts, counted in windows.

    Under each key the windows follow one another without gaps, the first of
    them opened by the first call that has a start counted: window *i* begins
    ``i * seconds`` after it. Once all windows in which starts are counted have
    passed, or none is counted any more, the next one opens a first window
    again. No window ever counts more starts than its limit; so within any span
    of that length, wherever it begins, there are at most twice as many. A key
    asked for with other ``seconds`` than before begins anew; its ``limit`` may
    differ from call to call, and is not kept. Time is reckoned in whole
    microseconds.

    Keys belong to a ``name`` (that of the limiter); the same key under another
    name is another key. Names and keys are any text of up to 255 characters.
    """

    def take(
        self, name: str, windows: Sequence[Window], *, caller: str | None = None, is_overdue: bool = False
    ) -> LimitAnswer:
        """Count a start now in all of these windows, or in none.

        Where one of them is full, the caller is refused, and the first instant
        at which all have room is kept for it: its start is counted there, and
        unclaimed until it is granted. When it asks again for the same keys
        within those very windows, it is granted without being counted again;
        too early, it is told the rest of its wait; too late, in any of them,
        what was kept is dropped and it is treated as a newcomer. What is kept
        for it under a key that it does not ask for stays. Without a ``caller``
        nothing is kept, and the delay says when there is room as things stand.

        So that windows do not pass unused where callers come late, a caller may
        say that it ``is_overdue``: it was refused before, and told of a start
        under these keys. If that start has passed, it is granted where each of
        the present windows has granted fewer starts than its limit: in a window
        that is full, an unclaimed start, whoever that is kept for. One who
        comes in time and finds that no start is unclaimed any more is overdue
        from then on.

        A newcomer is granted an unclaimed start in the same way once half of
        the present window is over, when those who can come in time have come;
        of several keys only under that with the shortest windows. Without a
        ``caller`` nobody is granted what is kept for another.

        A caller that was granted is forgotten: it is a newcomer next time.

        Raises:
            ValueError: Two windows have the same key.
        """

    def give_back(self, name: str, slots: Sequence[Slot]) -> None:
        """Take back starts that were granted, or hit, and did not happen. A slot whose window has passed is ignored.

        Each call takes back one start under each slot, so nobody may give back
        the same twice; where none was granted, nothing is taken back. What is
        kept for a refused caller is given up by `cancel`.
        """

    def cancel(self, name: str, keys: Sequence[str], *, caller: str) -> None:
        """Drop what is kept for a refused caller: it will not come. Nothing kept, nothing done.

        Where another caller, who was overdue, was granted it, that start stays counted.
        """

    def hit(self, name: str, key: str, *, seconds: float) -> int:
        """Count a start now whatever the limit; return how many the current window then has."""

    def look(self, name: str, key: str) -> WindowState:
        """What the current window of a key has counted; nothing is changed."""

    def clear(self, name: str, key: str) -> bool:
        """Forget a key with all that is counted and kept; True when there was something."""

    def prune(self) -> int:
        """Remove keys whose windows have all passed; return how many: 0 where they go by themselves."""
