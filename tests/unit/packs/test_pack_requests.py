"""Packs in the worker's parent, with a child that is only a process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker import state

from celery_laravel import Bus
from celery_laravel.attempt.packed import terms_of
from celery_laravel.message.packs import CARRIER
from celery_laravel.worker import leases, pack_request, pack_slots
from celery_laravel.worker.pack_request import PackRequest, look_after_packs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from tests.unit.packs.conftest import Post

pytestmark = pytest.mark.matrix


@pytest.fixture(autouse=True)
def nothing_active(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pack_slots, "_shared", [])
    pack_slots.share()
    yield
    state.reset_state()
    leases._leaving.clear()
    pack_request._on_their_way.clear()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def job(app: Celery) -> Any:
    @app.task(name="job")
    def job(number: int) -> None: ...

    return job


def received(app: Celery, post: Post, *jobs: Any, limits: tuple[Any, Any] = (None, None)) -> PackRequest:
    """A packed batch's request, in the worker's parent; the worker as a whole has these limits."""
    Bus(app).batch(jobs).pack(100).allow_failures().dispatch()
    (message,) = post.take()
    task = app.tasks[CARRIER]
    task.limits_of_worker = limits
    rejected: list[bool] = []
    request = PackRequest(
        SimpleNamespace(
            headers=message.headers,
            body=message.body,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            payload=message.payload,
            delivery_info=message.delivery_info,
            properties=message.properties,
        ),
        app=app,
        task=task,
        on_ack=lambda *_: None,
        on_reject=lambda _log, _errors, requeue: rejected.append(requeue),
    )
    request.rejected = rejected
    return request


def slot_of(request: PackRequest) -> tuple[pack_slots.Slots, int]:
    slots = pack_slots.shared()
    slot = terms_of(SimpleNamespace(**request.request_dict)).slot
    assert slots is not None
    assert slot is not None
    return slots, slot


def info_of(error: Exception) -> ExceptionInfo:
    """What the pool makes of an exception."""
    with contextlib.suppress(type(error)):
        _raise(error)
    return ExceptionInfo((type(error), error, error.__traceback__))


def _raise(error: Exception) -> None:
    raise error


def counts(app: Celery) -> tuple[int, int]:
    """Pending, failed."""
    batch = Bus(app).batches()[0]
    return batch.pending_jobs, batch.failed_jobs


def test_a_child_whose_member_is_over_its_limit_is_killed_and_the_member_fails(
    app: Celery, post: Post, job: Any, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = received(app, post, *(job.s(n).set(time_limit=5) for n in range(3)))
    slots, slot = slot_of(request)
    request.worker_pid = child.pid
    slots.begin(slot, 1)
    look_after_packs()
    assert child.poll() is None
    monkeypatch.setattr(pack_request, "time", SimpleNamespace(monotonic=lambda: 1e12))
    look_after_packs()
    assert child.wait(10) == -signal.SIGKILL
    request.on_failure(info_of(WorkerLostError()), return_ok=False)
    assert (counts(app), request.rejected) == ((2, 1), [True])
    (record,) = Bus(app).failed.all()
    assert (record.exception, record.args_repr) == ("TimeLimitExceeded: TimeLimitExceeded(5,)", "[1]")


def test_a_member_that_ended_as_its_process_was_killed_does_not_fail(
    app: Celery, post: Post, job: Any, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = received(app, post, *(job.s(n).set(time_limit=5) for n in range(3)))
    slots, slot = slot_of(request)
    request.worker_pid = child.pid
    slots.begin(slot, 1)
    monkeypatch.setattr(pack_request, "time", SimpleNamespace(monotonic=lambda: 1e12))
    look_after_packs()
    slots.begin(slot, 2)
    request.on_failure(info_of(WorkerLostError()), return_ok=False)
    assert (counts(app), request.rejected) == ((3, 0), [True])


def test_where_the_parent_runs_the_members_itself_it_does_not_kill_itself(
    app: Celery, post: Post, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = received(app, post, *(job.s(n).set(time_limit=5) for n in range(3)))
    slots, slot = slot_of(request)
    request.worker_pid = os.getpid()
    slots.begin(slot, 0)
    monkeypatch.setattr(pack_request, "time", SimpleNamespace(monotonic=lambda: 1e12))
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("nobody is killed"))
    look_after_packs()


def test_the_limits_of_the_worker_hold_for_each_member(app: Celery, post: Post, job: Any) -> None:
    request = received(app, post, job.s(1), job.s(2).set(soft_time_limit=7), limits=(30, 20))
    assert request.time_limits == (60 + pack_request._SPARE, 27 + pack_request._SPARE)
    assert list(terms_of(SimpleNamespace(**request.request_dict)).soft_limits) == [20, 7]


def test_without_limits_a_pack_has_none(app: Celery, post: Post, job: Any) -> None:
    request = received(app, post, job.s(1), job.s(2))
    assert not any(request.time_limits)
    assert terms_of(SimpleNamespace(**request.request_dict)).soft_limits == ()


def test_a_pack_that_is_itself_over_its_limit_comes_again(app: Celery, post: Post, job: Any) -> None:
    request = received(app, post, job.s(1), job.s(2), limits=(30, None))
    request.on_failure(info_of(TimeLimitExceeded(120)))
    request.on_timeout(soft=False, timeout=120)
    assert (counts(app), request.rejected) == ((2, 0), [True])


def test_members_are_revoked_when_they_come_and_while_they_wait(app: Celery, post: Post, job: Any) -> None:
    state.revoked.add("first")
    request = received(app, post, *(job.s(n).set(task_id=name) for n, name in enumerate(("first", "second", "third"))))
    slots, slot = slot_of(request)
    assert [slots.is_revoked(slot, position) for position in range(3)] == [True, False, False]
    state.revoked.add("third")
    look_after_packs()
    assert [slots.is_revoked(slot, position) for position in range(3)] == [True, False, True]


def test_a_pack_that_is_revoked_by_its_own_id_fails_what_has_not_ended(app: Celery, post: Post, job: Any) -> None:
    request = received(app, post, job.s(1), job.s(2), job.s(3))
    batch = Bus(app).batches()[0]
    app.tasks[CARRIER]._runtime.store.batches.end_members(batch.id, [1])
    state.revoked.add(request.id)
    assert request.revoked()
    assert counts(app) == (0, 2)


def test_what_the_running_member_holds_is_renewed_with_the_pack(app: Celery, post: Post, job: Any) -> None:
    request = received(app, post, *(job.s(n).set(task_id=f"id-{n}") for n in range(3)))
    slots, slot = slot_of(request)
    own = request.attempt[request.id]
    slots.begin(slot, 2)
    look_after_packs()
    owner = f"id-2/{own.rpartition('/')[2]}"
    assert dict(request.attempt) == {request.id: own, "id-2": owner}
    assert request.lease_owners == request.kept_alive == (own, owner)


def test_slots_are_given_back_and_run_out_without_harm(app: Celery, post: Post, job: Any) -> None:
    slots = pack_slots.shared()
    assert slots is not None
    taken = [slots.take() for _ in range(256)]
    assert sorted(slot for slot in taken if slot is not None) == list(range(256))
    request = received(app, post, job.s(1), job.s(2))
    assert terms_of(SimpleNamespace(**request.request_dict)).slot is None
    look_after_packs()
    slots.give_back(7)
    assert slots.take() == 7
