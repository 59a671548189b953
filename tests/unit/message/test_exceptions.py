from __future__ import annotations

import json
import pickle
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import dumps, loads

from celery_laravel import CeleryLaravelError, JobReleasedError, StoreUnavailableError
from celery_laravel.message.arguments import ExceptionArgument, register_exceptions
from celery_laravel.message.exceptions import describe, exception_from_data, exception_to_data


class PaymentError(Exception):
    def __init__(self, order: int, reason: str) -> None:
        super().__init__(order, reason)
        self.order = order

    def __str__(self) -> str:
        return f"order {self.order}: {self.args[1]}"


class KeywordError(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def travelled(error: BaseException) -> BaseException:
    return exception_from_data(json.loads(json.dumps(exception_to_data(error))))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        KeyError("key"),
        OSError(2, "No such file"),
        PaymentError(5, "declined"),
        StoreUnavailableError("redis://h", "down"),
        JobReleasedError("released", 5),
        SystemExit(3),
    ],
)
def test_an_exception_arrives_as_an_instance_of_its_class(error: BaseException) -> None:
    arrived = travelled(error)
    assert type(arrived) is type(error)
    assert arrived.args == error.args
    assert str(arrived) == str(error)


@pytest.mark.parametrize("error", [KeywordError(code=3), ValueError(object)])
def test_one_that_cannot_be_rebuilt_arrives_as_a_stand_in_of_the_same_name(error: Exception) -> None:
    arrived = travelled(error)
    assert type(arrived).__name__ == type(error).__name__
    assert isinstance(arrived, CeleryLaravelError)
    assert describe(arrived) == describe(error)


class LockedError(Exception):
    """One that can be rebuilt, and not be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


@pytest.mark.parametrize("error", [ValueError("bad"), KeywordError(code=3), ValueError(object), LockedError("locked")])
def test_what_arrives_can_be_pickled(error: Exception) -> None:
    """A worker's main process pickles the arguments of each message (Celery 5.7), and ends if it cannot."""
    arrived = travelled(error)
    again = pickle.loads(pickle.dumps(arrived))
    assert type(again).__name__ == type(arrived).__name__
    assert describe(again) == describe(arrived) == describe(error)


def test_an_exception_whose_own_text_fails_is_still_one() -> None:
    assert type(travelled(MuteError())) is MuteError
    assert describe(MuteError()).startswith("MuteError: ")


def test_one_of_a_class_that_is_not_there_arrives_as_a_stand_in() -> None:
    arrived = exception_from_data({"module": "gone", "class": "Outer.GoneError", "message": "m", "args": ["m"]})
    assert type(arrived).__name__ == "GoneError"
    assert str(arrived) == "m"


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("os.path", "os.system")]
)
def test_data_cannot_name_anything_but_an_exception(module: str, name: str) -> None:
    arrived = exception_from_data({"module": module, "class": name, "message": "m", "args": ["true"]})
    assert isinstance(arrived, CeleryLaravelError)


def test_data_imports_no_module() -> None:
    exception_from_data({"module": "this", "class": "Error", "message": "m", "args": []})
    import sys

    assert "this" not in sys.modules


@given(
    st.dictionaries(
        st.sampled_from(["module", "class", "message", "args"]),
        st.none() | st.text(max_size=8) | st.integers() | st.lists(st.integers(), max_size=3) | st.just("builtins"),
    )
)
def test_any_data_makes_an_exception(data: dict[str, Any]) -> None:
    assert isinstance(exception_from_data(data), BaseException)


@pytest.mark.parametrize("travel", [lambda value: loads(dumps(value)), lambda value: pickle.loads(pickle.dumps(value))])
def test_an_exception_among_arguments_arrives_through_json_and_pickle(travel: Any) -> None:
    register_exceptions()
    register_exceptions()
    arrived = travel([ExceptionArgument(exception_to_data(PaymentError(5, "declined")))])[0]
    assert isinstance(arrived, PaymentError)
    assert arrived.order == 5


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (PaymentError(5, "no"), "PaymentError: order 5: no"),
    ],
)
def test_a_description_begins_with_the_class(error: Exception, text: str) -> None:
    assert describe(error) == text
