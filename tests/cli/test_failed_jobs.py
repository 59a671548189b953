from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import Celery

from celery_laravel import Bus
from celery_laravel.runtime import runtime_of
from tests.cli.conftest import Fail, Run

Waiting = Callable[[str], list[str]]
KEYS = [
    *("id", "connection", "queue", "task", "args_repr", "kwargs_repr"),
    *("exception", "traceback", "failed_at", "attempts", "batch_id", "claimed_until"),
]


def test_failed_jobs_are_listed_newest_first_in_columns(run: Run, fail: Fail):
    fail("older", hours=2)
    fail("newer", exception="ValueError: one\nand more", queue="mails")
    result = run("failed")
    assert result.exit_code == 0
    header, newer, older = result.stdout.splitlines()
    assert header.split("  ")[0] == "ID"
    assert newer.split()[:4] == ["newer", "shop.charge", "mails", "3"]
    assert newer.endswith("ValueError: one …")
    assert older.startswith("older")


def test_an_empty_list_is_no_error(run: Run):
    result = run("failed")
    assert (result.exit_code, result.stdout) == (0, "No failed jobs.\n")
    assert json.loads(run("failed", "--json").stdout) == []


def test_a_listing_in_json_is_one_document_with_the_keys_of_the_record(run: Run, fail: Fail):
    job = fail("a", exception="ValueError: ü", batch_id="b1")
    (shown,) = json.loads(run("failed", "--json").stdout)
    assert list(shown) == KEYS
    assert shown["exception"] == "ValueError: ü"
    assert shown["batch_id"] == "b1"
    assert abs((datetime.fromisoformat(shown["failed_at"]) - job.failed_at).total_seconds()) < 0.001


def test_a_queue_and_a_limit_narrow_the_list(run: Run, fail: Fail):
    for number in range(3):
        fail(f"mail-{number}", queue="mails", hours=number)
    fail("other")
    ids = [job["id"] for job in json.loads(run("failed", "--queue", "mails", "--json").stdout)]
    assert ids == ["mail-0", "mail-1", "mail-2"]
    limited = run("failed", "--limit", "2", "--json")
    assert len(json.loads(limited.stdout)) == 2
    assert "2 of 4 failed jobs shown; --limit 0 shows all." in limited.stderr
    unlimited = run("failed", "--limit", "0", "--json")
    assert len(json.loads(unlimited.stdout)) == 4
    assert unlimited.stderr == ""


def test_one_failed_job_is_shown_with_its_arguments_and_traceback(run: Run, fail: Fail):
    fail("a")
    result = run("failed", "a")
    assert result.exit_code == 0
    assert "Args:       (7,)" in result.stdout
    assert "Traceback:\n  Traceback (most recent call last):\n" in result.stdout
    assert list(json.loads(run("failed", "a", "--json").stdout)) == KEYS


def test_control_characters_of_a_message_do_not_reach_the_terminal(run: Run, fail: Fail):
    fail("a", exception="ValueError: \x1b[2J\x07gone", args_repr="('\x1b]0;title\x07',)")
    for arguments in (["failed"], ["failed", "a"], ["failed", "--json"]):
        output = run(*arguments).stdout
        assert "\x1b" not in output
        assert "\x07" not in output


def test_an_unknown_id_is_an_error_that_names_close_ones(run: Run, fail: Fail):
    fail("6f1c2a94-77aa")
    result = run("failed", "6f1c2a94")
    assert result.exit_code == 1
    assert result.stderr == "Error: There is no failed job '6f1c2a94'. Did you mean 6f1c2a94-77aa?\n"


def test_a_retried_job_is_sent_under_its_id_and_its_record_goes(run: Run, fail: Fail, app: Celery, waiting: Waiting):
    fail("a")
    fail("b")
    result = run("retry", "a")
    assert (result.exit_code, result.stdout) == (0, "1 failed job sent again.\n")
    assert waiting("celery") == ["a"]
    assert [job.id for job in Bus(app).failed.all()] == ["b"]


def test_a_job_that_somebody_else_retries_is_left_to_them_and_told_of(
    run: Run, fail: Fail, app: Celery, waiting: Waiting
):
    fail("a")
    fail("b")
    assert "Retry" not in run("failed", "a").stdout
    claimed = runtime_of(app).failed_jobs.claim("a", owner="somebody", lease=timedelta(seconds=30))
    assert claimed is not None
    assert claimed.claimed_until is not None
    until = f"{claimed.claimed_until.astimezone():%Y-%m-%d %H:%M:%S}"
    told = f"It may have been sent; if that was broken off, it can be retried from {until} on."
    result = run("retry", "all")
    assert (result.exit_code, result.stdout) == (1, "1 failed job sent again.\n")
    assert result.stderr == f"The failed job a is being retried already. {told}\n"
    assert waiting("celery") == ["b"]
    assert f"Retry:      Begun, and not ended. {told}\n" in run("failed", "a").stdout
    shown = json.loads(run("failed", "a", "--json").stdout)
    assert datetime.fromisoformat(shown["claimed_until"]) == claimed.claimed_until
    assert run("forget", "a").stdout == "1 failed job forgotten.\n"


def test_several_ids_are_retried_and_the_unknown_ones_named(run: Run, fail: Fail, waiting: Waiting):
    fail("a")
    fail("b")
    result = run("retry", "a", "nobody", "b", "a")
    assert result.exit_code == 1
    assert result.stdout == "2 failed jobs sent again.\n"
    assert "There is no failed job 'nobody'." in result.stderr
    assert waiting("celery") == ["a", "b"]


def test_all_of_a_queue_are_retried_newest_failure_first(run: Run, fail: Fail, app: Celery, waiting: Waiting):
    fail("old", queue="mails", hours=2)
    fail("new", queue="mails")
    fail("other")
    result = run("retry", "all", "--queue", "mails")
    assert (result.exit_code, result.stdout) == (0, "2 failed jobs sent again.\n")
    assert waiting("mails") == ["new", "old"]
    assert [job.id for job in Bus(app).failed.all()] == ["other"]


def test_an_id_on_another_queue_is_not_retried(run: Run, fail: Fail, app: Celery):
    fail("a")
    result = run("retry", "a", "--queue", "mails")
    assert result.exit_code == 1
    assert "on the queue 'mails'" in result.stderr
    assert Bus(app).failed.count() == 1


def test_retrying_all_of_nothing_is_no_error(run: Run):
    result = run("retry", "all")
    assert (result.exit_code, result.stdout) == (0, "No failed jobs.\n")


@pytest.mark.parametrize(
    "arguments", [["retry"], ["retry", "all", "a"], ["forget"], ["flush", "--hours", "-1"], ["nonsense"]]
)
def test_wrong_usage_has_a_code_of_its_own(run: Run, arguments: list[str]):
    assert run(*arguments).exit_code == 2


def test_a_job_that_cannot_be_sent_keeps_its_record_and_the_others_go(
    run: Run, fail: Fail, app: Celery, waiting: Waiting
):
    unreadable = {
        "content_type": "application/x-unheard-of",
        "content_encoding": "utf-8",
        "body": "?",
        "is_base64": False,
    }
    fail("bad", payload=unreadable)
    fail("good", hours=1)
    result = run("retry", "all")
    assert result.exit_code == 1
    assert "The failed job bad cannot be sent: " in result.stderr
    assert "Traceback" not in result.stderr
    assert waiting("celery") == ["good"]
    assert [job.id for job in Bus(app).failed.all()] == ["bad"]


def test_an_interrupted_retry_says_how_far_it_came(
    run: Run, fail: Fail, app: Celery, monkeypatch: pytest.MonkeyPatch, waiting: Waiting
):
    fail("first")
    fail("second", hours=1)
    publish = app.send_task

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(app, "send_task", press_ctrl_c)
        return publish(*args, **kwargs)

    def press_ctrl_c(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "send_task", interrupted)
    result = run("retry", "all")
    assert result.exit_code == 130
    assert result.stderr == "Error: 1 failed job sent again. Interrupted; the others keep their records.\n"
    assert waiting("celery") == ["first"]
    assert [job.id for job in Bus(app).failed.all()] == ["second"]


def test_tasks_that_cannot_be_imported_are_named_before_anything_is_sent(run: Run, fail: Fail, app: Celery):
    fail("a")
    app.conf.include = ["nowhere.to_be_found"]
    result = run("retry", "a")
    assert result.exit_code == 4
    assert "No module named 'nowhere'" in result.stderr
    assert Bus(app).failed.count() == 1


def test_forgotten_jobs_leave_no_record(run: Run, fail: Fail, app: Celery):
    fail("a")
    fail("b")
    result = run("forget", "a", "nobody")
    assert result.exit_code == 1
    assert result.stdout == "1 failed job forgotten.\n"
    assert "There is no failed job 'nobody'." in result.stderr
    assert [job.id for job in Bus(app).failed.all()] == ["b"]


def test_flush_takes_all_or_only_the_old_ones(run: Run, fail: Fail, app: Celery):
    fail("old", hours=5)
    fail("new")
    assert run("flush", "--hours", "3").stdout == "1 failed job forgotten.\n"
    assert [job.id for job in Bus(app).failed.all()] == ["new"]
    assert run("flush").stdout == "1 failed job forgotten.\n"
    empty = run("flush")
    assert (empty.exit_code, empty.stdout) == (0, "0 failed jobs forgotten.\n")


def test_pruning_keeps_the_last_day_unless_told_otherwise(run: Run, fail: Fail, app: Celery):
    fail("old", hours=25)
    fail("new", hours=23)
    assert run("prune-failed").stdout == "1 failed job forgotten.\n"
    assert [job.id for job in Bus(app).failed.all()] == ["new"]
    assert run("prune-failed", "--hours", "22").stdout == "1 failed job forgotten.\n"
