# ruff: noqa: D102  rules and invariants are sentences by their names
"""A state machine that drives a `LimitStore` and a model of it side by side."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from celery_laravel import clock
from celery_laravel.stores.records import Slot, Window
from celery_laravel.testing.store_suite.batch_machine import machine_settings
from celery_laravel.testing.store_suite.limit_model import LIMITS, SECOND, Model, first_with_room
from celery_laravel.testing.store_suite.times import VirtualTime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import LimitAnswer
    from celery_laravel.testing.store_suite.times import Advance

HOUR = 3600 * SECOND
CLOSE = 2
"""Microseconds by which a float may miss an instant."""
LENGTHS = {"short": HOUR, "odd": 100 * 60 * SECOND, "long": 24 * HOUR}
KEYS = st.sampled_from(sorted(LENGTHS))
SETS = st.lists(KEYS, unique=True, min_size=1, max_size=3)
CALLERS = st.sampled_from([None, "a", "b", "c", "d"])


class LimitMachine(RuleBasedStateMachine):
    """Three keys of different limits and lengths, and callers that wait for them.

    Where the clock is moved by hand, time passes as well, and callers come too
    early, in time and too late. A server's clock moves too little meanwhile to
    matter: the windows are hours, and the model learns from the first answer
    where they begin.
    """

    def __init__(self, store: Store, advance: Advance) -> None:
        super().__init__()
        self.store = store
        self.advance = advance
        self.is_exact = isinstance(advance, VirtualTime)
        self.name = uuid4().hex
        self.models: dict[str, Model] = {}
        self.granted: list[tuple[Slot, ...]] = []
        self.begun: Counter[tuple[str, int]] = Counter()

    @rule(keys=SETS, caller=CALLERS, is_overdue=st.booleans())
    def take(self, keys: list[str], caller: str | None, is_overdue: bool) -> None:
        now = self.now()
        models = {key: self.known(key) or Model(now, LENGTHS[key]) for key in keys}
        windows = [Window(key, LIMITS[key], LENGTHS[key] / SECOND) for key in keys]
        answer = self.store.limits.take(self.name, windows, caller=caller, is_overdue=is_overdue)
        if answer.granted:
            self.granted.append(answer.slots)
            self.begun.update((slot.key, round(slot.window_start * SECOND)) for slot in answer.slots)
        if caller is not None and self.come_again(models, caller, answer, is_overdue):
            return
        instant = first_with_room(models, now)
        if instant > now and caller is None:
            self.check(answer, [], instant - now)
            return
        for slot in answer.slots:
            model = models[slot.key]
            if not model.starts:
                self.learn_anchor(model, round(slot.window_start * SECOND), now, instant)
        counted = {key: model.window(max(instant, model.anchor)) for key, model in models.items()}
        self.check(answer, [(key, models[key].slot(window)) for key, window in counted.items()], instant - now)
        for key, window in counted.items():
            self.models[key] = models[key]
            if caller is None or instant <= now:
                models[key].start(window)
            else:
                models[key].keep(window, caller)

    @rule(keys=SETS, caller=st.sampled_from("abcd"))
    def take_for_a_caller(self, keys: list[str], caller: str) -> None:
        """More of what the other rules need."""
        self.take(keys, caller, False)

    def learn_anchor(self, model: Model, start: int, now: int, instant: int) -> None:
        """Believe a store where the windows of a key begin under which nothing was counted."""
        if self.is_exact:
            assert start <= instant + CLOSE
            assert instant < start + model.length
        if not self.models:  # there is no other key from which a server's time is known
            model.anchor = start
            return
        slack = CLOSE if self.is_exact else HOUR // 2
        windows_ahead = -((now + slack - start) // model.length)  # rounded up, so that a window begins by now
        model.anchor = start - max(0, windows_ahead) * model.length

    def come_again(self, models: dict[str, Model], caller: str, answer: LimitAnswer, is_overdue: bool) -> bool:
        """Compare the answer to one whose starts are kept or were kept; False when it is a newcomer."""
        now = self.now()
        kept = {key: model.kept[caller] for key, model in models.items() if caller in model.kept}
        if len(kept) == len(models):
            slots = [(key, models[key].slot(window)) for key, window in kept.items()]
            begins = max(start for _, start in slots)
            is_there = all(models[key].is_unclaimed(window) for key, window in kept.items())
            if begins > now or is_there:
                self.check(answer, slots, begins - now)
                for key, window in kept.items() if begins <= now else ():
                    models[key].claim(window)
                    del models[key].kept[caller]
                return True
            is_overdue = True
        for model in models.values():
            model.drop_kept(caller)
        return self.come_now(models, answer, is_overdue)

    def come_now(self, models: dict[str, Model], answer: LimitAnswer, is_overdue: bool) -> bool:
        """Compare the answer to one who is granted a start now, another's where need be; False when there is none."""
        now = self.now()
        windows = {key: model.window(max(now, model.anchor)) for key, model in models.items()}
        full = {key: window for key, window in windows.items() if models[key].count(window) >= LIMITS[key]}
        if any(models[key].starts.count((window, True)) >= LIMITS[key] for key, window in full.items()):
            return False
        shortest = min(model.length for model in models.values())
        early = [key for key, window in full.items() if 2 * (now - models[key].slot(window)) < shortest]
        if not is_overdue and (early or any(models[key].length > shortest for key in full)):
            return False
        for slot in answer.slots:
            model = models[slot.key]
            if not model.starts:
                self.learn_anchor(model, round(slot.window_start * SECOND), now, now)
        windows = {key: model.window(max(now, model.anchor)) for key, model in models.items()}
        self.check(answer, [(key, models[key].slot(window)) for key, window in windows.items()], 0)
        for key, window in windows.items():
            models[key].start_late(window, LIMITS[key])
            self.models[key] = models[key]
        return True

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        slots = self.granted.pop(data.draw(st.integers(0, len(self.granted) - 1)))
        self.store.limits.give_back(self.name, slots)
        for slot in slots:
            start = round(slot.window_start * SECOND)
            self.begun[slot.key, start] -= 1
            model = self.known(slot.key)
            if model is not None:
                window = model.window(start + CLOSE)
                if (window, True) in model.starts:
                    model.starts.remove((window, True))

    @precondition(lambda self: self.waiting())
    @rule(keys=SETS, caller=CALLERS)
    def cancel(self, keys: list[str], caller: str | None) -> None:
        self.store.limits.cancel(self.name, keys, caller=caller or "nobody")
        for key in keys:
            model = self.known(key)
            if model is not None:
                model.drop_kept(caller or "nobody")

    @rule(key=KEYS)
    def hit(self, key: str) -> None:
        now, model = self.now(), self.known(key)
        count = self.store.limits.hit(self.name, key, seconds=LENGTHS[key] / SECOND)
        if model is None and not self.is_exact:  # the answer does not tell where the window begins
            assert count == 1
            assert self.store.limits.clear(self.name, key)
            return
        if model is None:
            model = self.models[key] = Model(now, LENGTHS[key])
        window = model.window(now)
        model.start(window)
        assert count == model.count(window)

    @precondition(lambda self: len(self.waiting()) > LIMITS["short"])
    @rule(key=KEYS)
    def clear(self, key: str) -> None:
        known = self.known(key) is not None
        assert self.store.limits.clear(self.name, key) is known
        self.models.pop(key, None)
        self.granted = [tuple(slot for slot in slots if slot.key != key) for slots in self.granted]
        for begun in [begun for begun in self.begun if begun[0] == key]:
            del self.begun[begun]

    @rule()
    def prune(self) -> None:
        self.store.limits.prune()
        assert self.store.limits.prune() == 0

    @precondition(lambda self: self.is_exact)
    @rule(minutes=st.integers(1, 150))
    def let_time_pass(self, minutes: int) -> None:
        self.advance(timedelta(minutes=minutes, seconds=1))  # so that no window ends now, to the microsecond

    @precondition(lambda self: self.is_exact and self.waiting())
    @rule(data=st.data(), late=st.booleans(), is_overdue=st.booleans())
    def let_one_come_for_what_is_kept(self, data: st.DataObject, late: bool, is_overdue: bool) -> None:
        key, _, caller = data.draw(st.sampled_from(self.waiting()))
        kept = {other: window for other, window, who in self.waiting() if who == caller}
        begins = max(self.models[other].slot(window + (late and other == key)) for other, window in kept.items())
        self.advance(timedelta(microseconds=max(0, begins - self.now()) + SECOND))
        self.take(sorted(kept), caller, is_overdue)

    @invariant()
    def the_present_window_is_right(self) -> None:
        for key in LENGTHS:
            model = self.known(key)
            expected = 0 if model is None else model.count(model.window(self.now()))
            assert self.store.limits.look(self.name, key).count == expected

    @invariant()
    def as_many_starts_are_kept_at_most_as_callers(self) -> None:
        for model in self.models.values():
            unclaimed = Counter(window for window, was_granted in model.starts if not was_granted)
            assert unclaimed <= Counter(model.kept.values())

    @invariant()
    def no_window_has_more_starts_than_its_limit(self) -> None:
        """Counted by the windows that the granted ones were told, without the model; no two of these overlap."""
        for key, limit in LIMITS.items():
            begun = {start: count for (of_key, start), count in self.begun.items() if of_key == key and count}
            assert all(0 < count <= limit for count in begun.values())
            assert all(later - earlier >= LENGTHS[key] - CLOSE for earlier, later in pairwise(sorted(begun)))

    def teardown(self) -> None:
        for key in LENGTHS:
            self.store.limits.clear(self.name, key)

    def now(self) -> int:
        """The present: by the clock that is moved by hand, or else just after all that a server has answered."""
        if self.is_exact:
            return int(clock.now() * SECOND)
        return max((model.anchor for model in self.models.values()), default=0) + 1

    def known(self, key: str) -> Model | None:
        """What is counted under a key from now on."""
        model = self.models.get(key)
        if model is not None:
            model.forget_before(self.now())
            if not model.starts:
                del self.models[key]
                return None
        return model

    def waiting(self) -> list[tuple[str, int, str]]:
        """Whose start is kept, where."""
        models = {key: model for key in LENGTHS if (model := self.known(key)) is not None}
        return [(key, window, who) for key, model in models.items() for who, window in model.kept.items()]

    def check(self, answer: LimitAnswer, slots: Sequence[tuple[str, int]], wait: int) -> None:
        """Compare an answer with the slots and the wait that the model has come to."""
        wait = max(0, wait)
        assert answer.granted is (wait == 0)
        assert abs(answer.delay * SECOND - wait) <= (CLOSE if self.is_exact else HOUR // 2)
        assert [slot.key for slot in answer.slots] == [key for key, _ in slots]
        for slot, (_, start) in zip(answer.slots, slots, strict=True):
            assert abs(round(slot.window_start * SECOND) - start) <= CLOSE


def check_limits(store: Store, advance: Advance, *, examples: int, steps: int) -> None:
    """Drive a store through random uses of three limits."""

    class Machine(LimitMachine):
        def __init__(self) -> None:
            super().__init__(store, advance)

    run_state_machine_as_test(Machine, settings=machine_settings(examples, steps))
