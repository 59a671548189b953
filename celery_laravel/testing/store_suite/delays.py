# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What a `DelayStore` has to do."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery_laravel.stores.records import NewDelay

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import DelayRecord
    from celery_laravel.testing.store_suite.times import Advance

NOW = timedelta()
SECOND = timedelta(seconds=1)


def delayed(entry: str = "entry", *, delay: timedelta = NOW, **given: Any) -> NewDelay:
    """A message with every field filled."""
    values = {"job_id": f"job of {entry}", "task": "shop.send", "queue": "mails", "message": f"message of {entry}"}
    return NewDelay(entry=entry, delay=delay, **(values | given))


def entries(records: list[DelayRecord]) -> list[str]:
    """The entries of records, in their order."""
    return [record.entry for record in records]


class DelaySuite:
    """Messages that wait: kept whole, given out when they are due, and to one at a time."""

    def test_a_message_comes_back_whole(self, store: Store, advance: Advance) -> None:
        text = 'naïve 🚀\n{"v": 1} \\n \r\n\t' + "x" * 100_000
        store.delays.park([delayed("e 1:*", delay=advance.long, job_id="jöb {1}:*", queue="q ü:*", message=text)])
        (record,) = store.delays.find("jöb {1}:*")
        assert (record.entry, record.job_id, record.task, record.queue) == ("e 1:*", "jöb {1}:*", "shop.send", "q ü:*")
        assert record.message == text
        assert (record.target, record.is_revoked) == (None, False)
        assert record.due_at - record.parked_at == advance.long
        assert record.due_at.tzinfo is not None
        assert store.delays.all() == [record]

    def test_what_is_not_due_is_given_to_nobody(self, store: Store, advance: Advance) -> None:
        store.delays.park([delayed("late", delay=advance.long)])
        assert store.delays.claim(limit=9, lease=advance.long) == []
        store.delays.park([delayed("soon", delay=advance.short)])
        advance(advance.short)
        assert entries(store.delays.claim(limit=9, lease=advance.long)) == ["soon"]

    def test_what_is_due_is_given_out_longest_due_first_and_no_more_than_asked_for(
        self, store: Store, advance: Advance
    ) -> None:
        # In one call, and so from one instant: a slow machine may take longer between two than their delays differ.
        places = ((3, "c"), (1, "a"), (2, "b"))
        store.delays.park([delayed(entry, delay=advance.short * number / 3) for number, entry in places])
        advance(advance.short)
        assert entries(store.delays.claim(limit=2, lease=advance.long)) == ["a", "b"]
        assert entries(store.delays.claim(limit=2, lease=advance.long)) == ["c"]

    def test_what_is_claimed_is_given_to_another_once_the_lease_is_over(self, store: Store, advance: Advance) -> None:
        store.delays.park([delayed("one"), delayed("two", delay=advance.short)])
        (first,) = store.delays.claim(limit=1, lease=advance.short)
        advance(advance.short)
        again = {record.entry: record for record in store.delays.claim(limit=9, lease=advance.long)}
        assert again.keys() == {"one", "two"}
        assert again["one"] == first
        assert store.delays.claim(limit=9, lease=advance.long) == []

    def test_what_is_removed_is_gone(self, store: Store, advance: Advance) -> None:
        store.delays.park([delayed("one"), delayed("two"), delayed("three", delay=advance.long)])
        store.delays.claim(limit=9, lease=advance.short)
        assert store.delays.remove(["one", "three", "nobody"]) == 2
        assert store.delays.remove(["one", "three"]) == 0
        assert store.delays.remove([]) == 0
        advance(advance.short)
        assert entries(store.delays.claim(limit=9, lease=advance.short)) == ["two"]
        assert (store.delays.find("job of one"), entries(store.delays.all()), store.delays.count()) == ([], ["two"], 1)
        assert store.delays.count(queue="mails") == 1

    def test_an_entry_that_is_there_is_left_alone(self, store: Store, advance: Advance) -> None:
        store.delays.park([delayed(delay=advance.long)])
        store.delays.park([delayed(delay=NOW, message="another"), delayed("new", delay=advance.long)])
        assert store.delays.claim(limit=9, lease=SECOND) == []
        assert [record.message for record in store.delays.find("job of entry")] == ["message of entry"]
        assert store.delays.count() == 2

    def test_a_job_may_wait_more_than_once(self, store: Store, advance: Advance) -> None:
        late, soon = delayed("late", job_id="job", delay=advance.long), delayed("soon", job_id="job")
        store.delays.park([late, soon, delayed("other", job_id="job ")])
        assert entries(store.delays.find("job")) == ["soon", "late"]
        store.delays.remove(["soon"])
        assert entries(store.delays.find("job")) == ["late"]
        assert store.delays.find("nobody") == []

    def test_a_revoked_message_leaves_at_once_as_another(self, store: Store, advance: Advance) -> None:
        store.delays.park([delayed(delay=advance.long)])
        assert store.delays.revoke("entry", "it is revoked")
        (record,) = store.delays.find("job of entry")
        assert (record.is_revoked, record.message) == (True, "it is revoked")
        assert record.due_at - record.parked_at == advance.long
        assert store.delays.claim(limit=9, lease=advance.long) == [record]

    def test_revoking_twice_changes_nothing(self, store: Store, advance: Advance) -> None:
        store.delays.park([delayed(delay=advance.long)])
        assert store.delays.revoke("entry", "it is revoked")
        assert store.delays.revoke("entry", "once more")
        assert [record.message for record in store.delays.all()] == ["it is revoked"]
        assert not store.delays.revoke("nobody", "")
        store.delays.remove(["entry"])
        assert not store.delays.revoke("entry", "")
        assert store.delays.count() == 0

    def test_a_revoked_message_that_is_claimed_keeps_its_lease(self, store: Store, advance: Advance) -> None:
        store.delays.park([delayed("one")])
        store.delays.claim(limit=9, lease=advance.short)
        store.delays.park([delayed("two")])
        advance(advance.short)
        assert entries(store.delays.claim(limit=9, lease=advance.long)) in (["one", "two"], ["two", "one"])
        assert store.delays.revoke("one", "it is revoked")
        assert store.delays.claim(limit=9, lease=advance.long) == []

    def test_a_revoked_message_whose_claimer_dies_leaves_as_another(self, store: Store, advance: Advance) -> None:
        store.delays.park([delayed()])
        store.delays.claim(limit=9, lease=advance.short)
        assert store.delays.revoke("entry", "it is revoked")
        advance(advance.short)
        assert [record.message for record in store.delays.claim(limit=9, lease=advance.long)] == ["it is revoked"]

    def test_messages_are_listed_first_due_first_and_by_queue(self, store: Store, advance: Advance) -> None:
        for number, queue in enumerate(["high", "low", "high", "hi", "high:er"]):
            store.delays.park([delayed(f"entry-{number}", delay=advance.long - SECOND * number, queue=queue)])
        delays = store.delays
        assert entries(delays.all()) == [f"entry-{number}" for number in (4, 3, 2, 1, 0)]
        assert entries(delays.all(limit=2)) == ["entry-4", "entry-3"]
        assert entries(delays.all(queue="high")) == ["entry-2", "entry-0"]
        assert entries(delays.all(queue="high", limit=1)) == ["entry-2"]
        assert delays.all(queue="none") == []
        assert [delays.count(queue=queue) for queue in ("high", "low", "none", None)] == [2, 1, 0, 5]

    def test_many_are_parked_listed_claimed_and_removed(self, store: Store, advance: Advance) -> None:
        names = [f"{number:04d}" for number in range(1_100)]
        store.delays.park([delayed(name, delay=timedelta(microseconds=int(name))) for name in names])
        store.delays.park([])
        advance(advance.short)
        assert (store.delays.count(), entries(store.delays.all())) == (1_100, names)
        assert entries(store.delays.claim(limit=1_050, lease=advance.long)) == names[:1_050]
        assert entries(store.delays.claim(limit=1_050, lease=advance.long)) == names[1_050:]
        assert store.delays.remove(names) == 1_100

    def test_a_delay_of_no_end_is_kept(self, store: Store, advance: Advance) -> None:
        store.delays.park([delayed(delay=timedelta(days=36_500))])
        assert store.delays.claim(limit=9, lease=SECOND) == []
        assert store.delays.all()[0].due_at.year > 2100

    def test_a_delay_that_is_over_is_due_at_once(self, store: Store, advance: Advance) -> None:
        store.delays.park([delayed(delay=-SECOND)])
        assert entries(store.delays.claim(limit=9, lease=advance.long)) == ["entry"]

    def test_what_has_no_target_is_not_pushed_anywhere(self, store: Store, advance: Advance) -> None:
        store.delays.park([delayed()])
        assert store.delays.move(limit=9) == 0
        assert store.delays.count() == 1
