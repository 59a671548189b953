"""The token that a start of an attempt holds its locks under."""

from __future__ import annotations

import os
from typing import Any

import pytest
from celery.app.task import Context

from celery_laravel.attempt.ownership import is_start_of, new_owner, owner_of, write_owner


def _in_a_fork(function: Any) -> str:
    """What a function returns in a child of this process."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, function().encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as answer:
        return answer.read()


def test_every_start_of_a_job_has_a_token_of_its_own() -> None:
    tokens = [new_owner("job") for _ in range(1000)]

    assert len(set(tokens)) == 1000
    assert all(is_start_of("job", token) for token in tokens)
    assert not is_start_of("other", tokens[0])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_processes_make_tokens_of_their_own() -> None:
    before = new_owner("job")

    tokens = {before, _in_a_fork(lambda: new_owner("job")), _in_a_fork(lambda: new_owner("job")), new_owner("job")}

    assert len(tokens) == 4


def test_a_token_fits_into_every_store_whatever_the_id() -> None:
    assert len(new_owner("x" * 1000)) <= 255
    assert is_start_of("x" * 1000, new_owner("x" * 1000))


def test_a_child_finds_the_token_that_its_parent_wrote_and_no_message_sent_again_carries_it() -> None:
    properties = {"correlation_id": "c"}
    request: dict[str, Any] = {"id": "job", "task": "t", "mine": 1, "properties": properties}

    owner = write_owner(request, "job")
    context = Context(request)

    assert owner_of(context) == owner
    assert context.headers == {"mine": 1}
    assert properties == {"correlation_id": "c"}
    assert owner not in repr(context.as_execution_options())


def test_a_request_without_a_parent_gets_another_token_each_time() -> None:
    for properties in (None, {}, "not a mapping", {"laravel_owner": 7}):
        context = Context({"id": "job", "properties": properties})
        assert owner_of(context) != owner_of(context)
        assert is_start_of("job", owner_of(context))
