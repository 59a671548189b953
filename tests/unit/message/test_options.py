from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, Task

from celery_laravel import ConfigurationError, Job, WithoutOverlapping, install
from celery_laravel.message.options import NOT_YET, JobOptions

if TYPE_CHECKING:
    from collections.abc import Callable

NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001  that it is naive is the point
AWARE = datetime(2030, 1, 1, tzinfo=timezone.utc)


def nothing(*args: Any, **kwargs: Any) -> None:
    """Be any function."""


async def later(*args: Any, **kwargs: Any) -> None:
    """Be a function that nobody awaits."""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tries", -1),
        ("tries", 1.5),
        ("tries", "3"),
        ("tries", True),
        ("max_exceptions", 0),
        ("max_exceptions", -1),
        ("max_exceptions", "1"),
        ("backoff", -1),
        ("backoff", "5"),
        ("backoff", float("nan")),
        ("backoff", float("inf")),
        ("backoff", []),
        ("backoff", [1, -1]),
        ("backoff", [1, "x"]),
        ("backoff", timedelta(seconds=-1)),
        ("backoff", {1: 2}),
        ("retry_until", 60),
        ("retry_until", "tomorrow"),
        ("retry_until", NAIVE),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", "1"),
        ("timeout", float("inf")),
        ("timeout", 1e12),
        ("backoff", 10**400),
        ("backoff", timedelta.max),
        ("timeout", timedelta(0)),
        ("fail_on_timeout", 1),
        ("middleware", "log"),
        ("middleware", [1]),
        ("middleware", 5),
        ("middleware", [lambda job: None]),
        ("middleware", WithoutOverlapping()),
        ("middleware", [WithoutOverlapping]),
        ("middleware", WithoutOverlapping),
        ("middleware", [later]),
        ("failed", "hook"),
        ("failed", later),
        ("tags", "one"),
        ("tags", [1]),
    ],
)
def test_a_wrong_value_is_an_error_that_names_task_option_and_value(app: Celery, option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        app.task(nothing, name="shop.pay", lazy=False, **{option: value})
    for part in ("'shop.pay'", option, repr(value)):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tries", 0),
        ("tries", 3),
        ("max_exceptions", 1),
        ("backoff", 0),
        ("backoff", 1.5),
        ("backoff", (1, 5)),
        ("backoff", [timedelta(seconds=1), 5]),
        ("backoff", nothing),
        ("retry_until", timedelta(hours=1)),
        ("retry_until", AWARE),
        ("retry_until", nothing),
        ("timeout", 0.5),
        ("timeout", timedelta(minutes=1)),
        ("fail_on_timeout", True),
        ("middleware", [nothing]),
        ("middleware", nothing),
        ("failed", nothing),
        ("tags", ["a", "b"]),
        ("tags", nothing),
    ],
)
def test_a_right_value_is_taken_as_it_is(app: Celery, option: str, value: Any) -> None:
    task = app.task(nothing, name="shop.pay", lazy=False, **{option: value})
    assert getattr(task.job_options, option) == value
    assert not task.job_options.is_plain


@pytest.mark.parametrize("option", ["tries", "max_exceptions", "backoff", "timeout", "middleware"])
def test_none_is_as_good_as_nothing(app: Celery, option: str) -> None:
    task = app.task(nothing, name="shop.pay", lazy=False, **{option: None})
    assert task.job_options == JobOptions()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"tries": 3}, {"autoretry_for": (OSError,)}),
        ({"tries": 3}, {"max_retries": 5}),
        ({"max_exceptions": 3}, {"autoretry_for": (OSError,)}),
        ({"retry_until": timedelta(hours=1)}, {"max_retries": 5}),
        ({"timeout": 5}, {"soft_time_limit": 5}),
    ],
)
def test_options_that_contradict_celerys_are_an_error_that_names_both(
    app: Celery, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        app.task(nothing, name="shop.pay", lazy=False, **ours, **theirs)
    for part in ("'shop.pay'", *ours, *theirs):
        assert part in str(caught.value)


def test_celerys_own_default_of_max_retries_contradicts_nothing(app: Celery) -> None:
    assert Task.max_retries == 3
    assert app.task(nothing, name="shop.pay", lazy=False, tries=3).job_options.tries == 3


@pytest.mark.parametrize(("slip", "meant"), [("tires", "tries"), ("backof", "backoff"), ("middlewares", "middleware")])
def test_a_slip_of_the_pen_is_an_error_that_says_what_was_meant(app: Celery, slip: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'shop.pay'.*unknown option {slip} = 3.*'{meant}'"):
        app.task(nothing, name="shop.pay", lazy=False, timeout=3, **{slip: 3})


def test_celerys_own_retrying_may_stand_beside_middleware(app: Celery) -> None:
    retrying = {"autoretry_for": (OSError,), "retry_backoff": 2, "retry_backoff_max": 9, "retry_jitter": False}
    retrying |= {"retry_kwargs": {"countdown": 1}, "dont_autoretry_for": (ValueError,), "max_retries": 4}
    task = app.task(nothing, name="shop.pay", lazy=False, middleware=[nothing], **retrying)
    assert task.job_options.retries_by_celery


def test_a_slip_is_seen_on_a_task_that_declares_nothing_else(app: Celery) -> None:
    with pytest.raises(ConfigurationError, match="'tries'"):
        app.task(nothing, name="shop.pay", lazy=False, tires=3)


def test_a_slip_is_seen_on_a_task_declared_before_install(make_app: Callable[..., Celery]) -> None:
    app = make_app()
    app.task(nothing, name="shop.pay", lazy=False, tires=3)
    with pytest.raises(ConfigurationError, match="'tries'"):
        install(app)


def test_an_option_is_checked_on_a_task_declared_before_install(make_app: Callable[..., Celery]) -> None:
    app = make_app()
    app.task(nothing, name="shop.pay", lazy=False, tries=-3)
    with pytest.raises(ConfigurationError, match=r"'shop\.pay'.*-3"):
        install(app)


def test_a_lazy_task_is_checked_when_the_app_is_finalized(app: Celery) -> None:
    app.task(nothing, name="shop.pay", tries=-3)
    with pytest.raises(ConfigurationError, match=r"'shop\.pay'.*-3"):
        app.finalize()


def test_an_unknown_option_beside_known_ones_is_an_error(app: Celery) -> None:
    with pytest.raises(ConfigurationError, match=r"'shop\.pay'.*colour = 'red'.*tries"):
        app.task(nothing, name="shop.pay", lazy=False, tries=1, colour="red")


def test_an_attribute_of_the_users_own_is_left_alone_on_a_plain_task(app: Celery) -> None:
    task = app.task(nothing, name="shop.pay", lazy=False, colour="red")
    assert task.job_options.is_plain
    assert task.colour == "red"


@pytest.mark.parametrize("option", NOT_YET)
def test_an_option_that_is_not_there_is_refused_rather_than_ignored(app: Celery, option: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"'shop\.pay'.*{option}.*not available"):
        app.task(nothing, name="shop.pay", lazy=False, **{option: 1})


def test_the_class_form_takes_attributes_and_methods(app: Celery) -> None:
    class Pay(Job):
        name = "shop.pay"
        tries = 3
        anything_else = "is the user's affair"

        def backoff(self, attempt: int, exc: Exception) -> float:
            return 2.0 * attempt

        def middleware(self, order: int) -> list[Any]:
            return []

        def failed(self, exc: Exception, order: int) -> None:
            """Be a hook."""

        def run(self, order: int) -> int:
            return order

    task = app.register_task(Pay())
    assert task.job_options.tries == 3
    assert task.job_options.backoff(task, 2, OSError()) == 4.0
    assert task.job_options.failed is not None
    assert task.apply((5,)).get() == 5


def test_a_subclass_inherits_and_overrides(app: Celery) -> None:
    class Base(Job):
        abstract = True
        tries = 3
        backoff = 1

    task = app.task(nothing, name="shop.pay", lazy=False, base=Base, backoff=7)
    assert (task.job_options.tries, task.job_options.backoff) == (3, 7)


def test_options_come_from_a_base_class_that_is_no_job(app: Celery) -> None:
    class Base(Task):
        abstract = True
        tries = 3

    assert app.task(nothing, name="shop.pay", lazy=False, base=Base).job_options.tries == 3


@pytest.mark.parametrize("option", ["backoff", "retry_until", "middleware", "failed"])
def test_a_function_given_to_the_decorator_gets_the_job_first(app: Celery, option: str) -> None:
    seen: list[Any] = []

    def function(job: Any, *args: Any) -> Any:
        seen.append((job, args))
        return {"backoff": 0, "retry_until": timedelta(hours=1), "middleware": [], "failed": None}[option]

    @app.task(name="shop.pay", max_exceptions=2, **{option: function})
    def pay(order: int) -> None:
        raise OSError(order)

    pay.apply((5,))
    assert seen
    assert all(job.name == "shop.pay" for job, _ in seen)
    if option in {"retry_until", "middleware"}:
        assert seen[0][1] == (5,)


def test_builtin_names_of_tasks_may_be_anything(app: Celery) -> None:
    """A task whose own attribute is named like an option's stem is not taken for a slip."""
    task = app.task(nothing, name="shop.pay", lazy=False, tag="x", trying=lambda: None)
    assert task.job_options.is_plain
