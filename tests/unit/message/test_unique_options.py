from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel import ConfigurationError, Job, ShouldBeUnique, ShouldBeUniqueUntilProcessing
from celery_laravel.message.unique_options import argument_names

if TYPE_CHECKING:
    from celery import Celery


def declare(app: Celery, **options: Any) -> Any:
    @app.task(name="job", bind=True, **options)
    def run(self: Any, a: Any = 0, b: Any = 0) -> None:
        pass

    return run.job_options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("unique", "always"),
        ("unique", 1),
        ("unique", ["latest"]),
        ("unique_for", -1),
        ("unique_for", "1h"),
        ("unique_for", timedelta.max),
        ("debounce_for", 1e300),
        ("unique_for", timedelta(seconds=-1)),
        ("unique_id", 5),
        ("unique_id", []),
        ("unique_id", ["a", 1]),
        ("unique_id", ""),
        ("unique_via", "redis"),
        ("unique_via", 5),
        ("debounce_for", 0),
        ("debounce_for", -1),
        ("debounce_for", "30"),
        ("debounce_for", timedelta(0)),
        ("max_wait", 0),
        ("max_wait", "60"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_task_option_and_value(app: Celery, option: str, value: Any) -> None:
    needed = {"max_wait": {"debounce_for": 1}, "unique": {}, "debounce_for": {}}.get(option, {"unique": True})
    with pytest.raises(ConfigurationError) as caught:
        declare(app, **needed, **{option: value})
    assert "'job'" in str(caught.value)
    assert f"{option} must be" in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unique": True, "debounce_for": 5}, "unique = True and debounce_for = 5"),
        ({"unique": "latest", "debounce_for": 5}, "unique = 'latest' and debounce_for = 5"),
        ({"unique_for": 5}, "unique_for = 5 and is not unique"),
        ({"unique": False, "unique_for": 5}, "unique_for = 5 and is not unique"),
        ({"unique_id": "a"}, "unique_id = 'a' and is not unique"),
        ({"unique_via": "memory://"}, "unique_via = 'memory://' and is not unique"),
        ({"debounce_for": 5, "unique_via": "memory://"}, "unique_via = 'memory://' and is not unique"),
        ({"max_wait": 5}, "max_wait = 5 without debounce_for"),
        ({"debounce_for": 30, "max_wait": timedelta(seconds=5)}, "less than debounce_for = 30"),
        ({"unique": True, "unique_id": "c"}, "names 'c', which is no argument of it. Its arguments: a, b."),
        ({"unique": True, "unique_id": ("a", "self")}, "names 'self'"),
        ({"debounce_for": 5, "unique_id": ["b", "c"]}, "names 'c'"),
    ],
)
def test_contradictions_are_errors_when_the_task_is_registered(app: Celery, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        declare(app, **options)
    assert "Task 'job'" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"unique": True, "unique_id": "a"},
        {"unique": True, "unique_id": ("a", "b"), "unique_for": 0},
        {"unique": "until_processing", "unique_for": timedelta(hours=1)},
        {"unique": "latest", "unique_id": lambda self, a, b=0: a},
        {"debounce_for": 5, "unique_id": "a", "max_wait": 60},
        {"unique": False},
    ],
)
def test_what_makes_sense_is_taken(app: Celery, options: dict[str, Any]) -> None:
    read = declare(app, **options)
    assert {name: getattr(read, name) for name in options} == options
    assert read.is_plain is (options == {"unique": False})


def test_arguments_of_a_task_that_is_not_bound_are_known_too(app: Celery) -> None:
    def run() -> None:
        pass

    task = app.task(unique=True, unique_id="a", name="job")(run)
    with pytest.raises(ConfigurationError, match="It has no arguments"):
        app.tasks[task.name]


def test_a_task_that_takes_any_keyword_may_name_any(app: Celery) -> None:
    @app.task(unique=True, unique_id="anything")
    def run(**options: Any) -> None:
        pass

    assert run.job_options.unique_id == "anything"
    assert not run.delay().suppressed
    assert run.delay(anything=None).suppressed
    assert not run.delay(anything=1).suppressed


@pytest.mark.parametrize(
    ("mixin", "unique"), [(ShouldBeUnique, True), (ShouldBeUniqueUntilProcessing, "until_processing")]
)
@pytest.mark.parametrize("is_first", [True, False])
def test_the_mixins_are_the_option(app: Celery, mixin: type, unique: Any, is_first: bool) -> None:
    def run(self: Any) -> None:
        pass

    bases = (mixin, Job) if is_first else (Job, mixin)
    cls = type("Update", bases, {"name": "update", "run": run, "unique_for": 60})
    options = app.register_task(cls()).job_options
    assert (options.unique, options.unique_for) == (unique, 60)


def test_the_names_that_a_unique_id_gives() -> None:
    assert [argument_names(given) for given in ("a", ["a", "b"], ("a",), len, None)] == [
        ("a",),
        ("a", "b"),
        ("a",),
        (),
        (),
    ]
