"""A task that declares nothing behaves as under plain Celery, to the byte, and asks nothing of a store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, Task, chain, chord, group, shared_task
from celery.exceptions import Ignore, Reject, Retry
from celery.signals import before_task_publish

from celery_laravel import Job, current_job, install
from celery_laravel.message.options import JobOptions

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.usefixtures("no_store"), pytest.mark.matrix]


class Recorder:
    """What was published, as it was handed to the transport."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def __call__(self, sender: Any = None, body: Any = None, headers: Any = None, **rest: Any) -> None:
        headers = {**headers, "origin": "", "stamps": headers.get("stamps")}
        kept = {key: rest.get(key) for key in ("exchange", "routing_key", "retry_policy")}
        properties = {key: value for key, value in rest["properties"].items() if key != "reply_to"}
        self.messages.append(json.dumps([sender, body, headers, properties, kept], default=str).encode())


def add(x: int, y: int = 0) -> int:
    return x + y


def declare(app: Celery) -> Any:
    return app.task(add, name="add", lazy=False)


DISPATCHES: dict[str, Callable[[Any], Any]] = {
    "delay": lambda task: task.apply_async((1, 2), task_id="1"),
    "options": lambda task: task.apply_async(
        (1,), {"y": 2}, task_id="1", priority=3, expires=60, queue="q", serializer="pickle", compression="zlib",
        headers={"mine": 1}, countdown=0, ignore_result=True, shadow="s", time_limit=3, soft_time_limit=2,
    ),
    "links": lambda task: task.apply_async((1,), task_id="1", link=task.s(3).set(task_id="2"), link_error=task.si(4)),
    "chain": lambda task: chain(task.s(1).set(task_id="1"), task.s(2).set(task_id="2")).apply_async(),
    "group": lambda task: group(task.s(1).set(task_id="1"), task.s(2).set(task_id="2")).apply_async(task_id="3"),
}  # fmt: skip


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_its_messages_are_byte_for_byte_those_of_plain_celery(
    make_app: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch, dispatch: str
) -> None:
    sent = []
    for prepare in (lambda app: app, install):
        app = prepare(make_app())
        app.conf.task_default_queue = "queue"
        monkeypatch.setattr(type(app), "now", lambda app: __import__("datetime").datetime(2030, 1, 1))
        recorder = Recorder()
        before_task_publish.connect(recorder)
        try:
            DISPATCHES[dispatch](declare(app))
        finally:
            before_task_publish.disconnect(recorder)
        assert recorder.messages
        sent.append([message.replace(app.thread_oid.encode(), b"oid") for message in recorder.messages])
    assert sent[0] == sent[1]


@pytest.mark.parametrize("call", ["apply", "direct", "run"])
def test_it_runs_and_returns_its_value(app: Celery, call: str) -> None:
    task = declare(app)
    assert {"apply": lambda: task.apply((1, 2)).get(), "direct": lambda: task(1, 2), "run": lambda: task.run(1, 2)}[
        call
    ]() == 3


@pytest.mark.parametrize("error", [ValueError("bad"), Ignore("i"), Reject("r"), Retry("t")])
def test_it_ends_as_under_plain_celery_when_it_raises(make_app: Callable[..., Celery], error: Exception) -> None:
    ended = []
    for prepare in (lambda app: app, install):
        app = prepare(make_app())

        @app.task(name="raises", lazy=False)
        def raises() -> None:
            raise error

        result = raises.apply()
        ended.append((result.state, repr(result.result)))
    assert ended[0] == ended[1]


def test_celerys_own_retry_is_untouched(make_app: Callable[..., Celery]) -> None:
    runs = []
    for prepare in (lambda app: app, install):
        app = prepare(make_app())
        seen: list[int] = []

        @app.task(name="retries", bind=True, max_retries=2, lazy=False)
        def retries(self: Any) -> str:
            seen.append(self.request.retries)  # noqa: B023  used at once
            if self.request.retries < 2:
                raise self.retry(countdown=0)
            return "done"

        runs.append((retries.apply().get(), seen))
    assert runs[0] == runs[1] == ("done", [0, 1, 2])


def test_autoretry_is_untouched(app: Celery) -> None:
    seen: list[int] = []

    @app.task(name="retries", bind=True, autoretry_for=(OSError,), max_retries=2, retry_backoff=0)
    def retries(self: Any) -> None:
        seen.append(self.request.retries)
        raise OSError("always")

    result = retries.apply()
    assert (result.state, seen) == ("FAILURE", [0, 1, 2])


def test_the_tasks_own_hooks_are_called(app: Celery) -> None:
    seen: list[str] = []

    class Base(Task):
        def before_start(self, *args: Any) -> None:
            seen.append("before_start")

        def on_success(self, *args: Any) -> None:
            seen.append("on_success")

        def on_failure(self, *args: Any) -> None:
            seen.append("on_failure")

        def after_return(self, *args: Any) -> None:
            seen.append("after_return")

    @app.task(name="x", base=Base)
    def x(fails: bool) -> None:
        if fails:
            raise ValueError

    x.apply((False,))
    x.apply((True,))
    assert seen == ["before_start", "on_success", "after_return", "before_start", "on_failure", "after_return"]


def test_it_can_call_itself_and_other_tasks(app: Celery) -> None:
    @app.task(name="power", bind=True)
    def power(self: Any, n: int) -> int:
        return 1 if n == 0 else 2 * self(n - 1)

    @app.task(name="outer")
    def outer(n: int) -> int:
        return int(power(n)) + int(power.apply((n,)).get(disable_sync_subtasks=False))

    assert outer.apply((3,)).get() == 16


def test_canvas_works_eagerly(make_app: Callable[..., Celery]) -> None:
    app = install(make_app(task_always_eager=True))
    task = declare(app)

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    assert chain(task.s(1, 2), task.s(3)).delay().get() == 6
    assert group(task.s(1), task.s(2)).delay().get() == [1, 2]
    assert chord([task.s(1), task.s(2)], total.s()).delay().get() == 3


def test_current_job_is_the_task_while_it_runs(app: Celery) -> None:
    seen: list[Any] = []

    @app.task(name="x")
    def x() -> None:
        seen.append(current_job())

    x.apply()
    assert seen == [x]
    assert current_job() is None


def test_tasks_declared_in_any_way_are_jobs(make_app: Callable[..., Celery]) -> None:
    app = make_app()
    before = app.task(add, name="before")
    before_bound = app.task(add, name="bound", lazy=False)

    @shared_task(name="shared")
    def shared() -> None:
        """Belong to every app."""

    class Own(Task):
        name = "own"

        def run(self) -> str:
            return "ran"

    own_before = app.register_task(Own())
    install(app)
    after = app.task(add, name="after")
    own_after = app.register_task(type("Later", (Own,), {"name": "later"})())
    app.finalize()
    for name in ("before", "bound", "shared", "own", "after", "later"):
        assert isinstance(app.tasks[name], Job), name
    assert before.apply((1,)).get() == before_bound.apply((1,)).get() == after.apply((1,)).get() == 1
    assert own_before.apply().get() == own_after.apply().get() == "ran"
    assert isinstance(app.tasks["own"], Own)


def test_celerys_own_tasks_are_left_alone(app: Celery, make_app: Callable[..., Celery]) -> None:
    plain = make_app()
    builtin = {name for name in plain.tasks if name.startswith("celery.")}
    assert builtin
    assert builtin == {name for name in app.tasks if name.startswith("celery.")}
    for name in builtin:
        assert not isinstance(plain.tasks[name], Job)
        assert app.tasks[name].acks_late == plain.tasks[name].acks_late
        assert getattr(app.tasks[name], "job_options", JobOptions()) == JobOptions()


def test_installing_twice_changes_nothing(app: Celery) -> None:
    task = declare(app)
    classes = type(task).__mro__
    steps, options = set(app.steps["worker"]), list(app.user_options["worker"])
    assert install(app) is app
    assert type(task).__mro__ == classes
    assert (set(app.steps["worker"]), list(app.user_options["worker"])) == (steps, options)


def test_an_apps_task_class_can_be_job(make_app: Callable[..., Celery]) -> None:
    app = make_app(task_cls="celery_laravel:Job")
    task = declare(app)
    assert isinstance(task, Job)
    assert task.apply((1, 2)).get() == 3
    app.finalize()
    assert chain(task.s(1), task.s(2)).apply().get() == 3


def test_one_task_can_be_a_job_without_install(make_app: Callable[..., Celery]) -> None:
    app = make_app()

    @app.task(name="one", base=Job, tries=2, bind=True)
    def one(self: Any) -> int:
        if self.attempts == 1:
            raise OSError
        return int(self.attempts)

    plain = declare(app)
    assert not isinstance(plain, Job)
    assert one.apply().get() == 2


def test_a_task_that_is_pickled_is_found_again_by_its_name(app: Celery) -> None:
    import pickle

    from celery import current_app

    task = declare(app)
    app.set_current()
    try:
        assert pickle.loads(pickle.dumps(task)) is app.tasks["add"]
    finally:
        current_app._get_current_object()
        __import__("celery._state")._state._set_current_app(None)


def test_the_signature_and_documentation_of_a_task_stay(app: Celery) -> None:
    import inspect

    @app.task(name="x")
    def x(number: int) -> int:
        """Say it."""
        return number

    assert x.__doc__ == "Say it."
    assert list(inspect.signature(x.run).parameters) == ["number"]
    assert x.__name__ == "x"


def test_arguments_are_checked_on_dispatch_as_under_celery(app: Celery) -> None:
    with pytest.raises(TypeError):
        declare(app).delay()


@pytest.mark.parametrize("calls", ["run", "super"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_base_class_of_the_users_own_may_wrap_the_call(
    make_app: Callable[..., Celery], calls: str, when: str
) -> None:
    """Flask's documentation has a ContextTask that calls ``self.run``; others call ``super().__call__``."""
    seen: list[str] = []

    class ContextTask(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            seen.append("enter")
            try:
                return self.run(*args, **kwargs) if calls == "run" else super().__call__(*args, **kwargs)
            finally:
                seen.append("leave")

    app = make_app()
    if when == "after":
        install(app)

    @app.task(name="x", bind=True, base=ContextTask, lazy=False)
    def x(self: Any, n: int) -> tuple[int, Any]:
        seen.append("code")
        return n, self.request.id

    if when == "before":
        install(app)
    assert x.apply((5,), task_id="1").get() == (5, "1")
    assert seen == ["enter", "code", "leave"]
    assert x(6)[0] == 6
    assert seen == ["enter", "code", "leave"] * 2


def test_a_flask_app_may_set_its_task_class(make_app: Callable[..., Celery]) -> None:
    """As Flask's documentation has it: ``Celery(task_cls=FlaskTask)``, then `install`."""
    seen: list[str] = []

    class FlaskTask(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            seen.append("context")
            return self.run(*args, **kwargs)

    app = install(make_app(task_cls=FlaskTask))
    task = declare(app)
    assert isinstance(task, Job)
    assert isinstance(task, FlaskTask)
    assert task.apply((1, 2)).get() == 3
    assert seen == ["context"]


@pytest.mark.parametrize("calls", ["run", "super"])
def test_a_wrapped_job_counts_its_attempts_once(make_app: Callable[..., Celery], calls: str) -> None:
    class ContextTask(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.run(*args, **kwargs) if calls == "run" else super().__call__(*args, **kwargs)

    app = install(make_app())
    seen: list[int] = []

    @app.task(name="x", bind=True, base=ContextTask, tries=3)
    def x(self: Any) -> None:
        seen.append(self.attempts)
        raise OSError

    assert x.apply().state == "FAILURE"
    assert seen == [1, 2, 3]
