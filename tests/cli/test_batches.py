from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from threading import Timer
from typing import Any

import pytest
from celery import Celery

from celery_laravel import Bus
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.records import MemberEnd, MemberState, NewBatch
from tests.cli.conftest import Fail, Run

MakeBatch = Callable[..., Any]


def test_batches_are_listed_newest_first(run: Run, make_batch: MakeBatch):
    make_batch("01", 4, succeeded=1, name="older")
    make_batch("02", 2, succeeded=1, failed=1, name="newer")
    header, newer, older = run("batches").stdout.splitlines()
    assert header.split()[:5] == ["ID", "STATE", "PROGRESS", "JOBS", "FAILED"]
    assert newer.split()[:6] == ["02", "failures", "100", "%", "2/2", "1"]
    assert older.split()[:6] == ["01", "pending", "25", "%", "1/4", "0"]
    assert older.endswith("older")


def test_batches_in_json_are_what_the_library_says_of_them(run: Run, make_batch: MakeBatch, app: Celery):
    make_batch("01", 2, succeeded=2)
    batch = Bus(app).find_batch("01")
    assert batch is not None
    assert json.loads(run("batches", "--json").stdout) == [batch.to_dict()]
    assert json.loads(run("batch", "01", "--json").stdout) == batch.to_dict()


def test_no_batches_are_no_error(run: Run):
    result = run("batches")
    assert (result.exit_code, result.stdout) == (0, "No batches.\n")
    assert json.loads(run("batches", "--json").stdout) == []


def test_a_page_says_how_to_get_the_next(run: Run, make_batch: MakeBatch):
    for number in range(3):
        make_batch(f"0{number}", 1)
    first = run("batches", "--limit", "2", "--json")
    assert [batch["id"] for batch in json.loads(first.stdout)] == ["02", "01"]
    assert "--before 01" in first.stderr
    second = run("batches", "--limit", "2", "--before", "01", "--json")
    assert [batch["id"] for batch in json.loads(second.stdout)] == ["00"]
    assert second.stderr == ""


def test_a_batch_is_shown_with_its_counts_and_its_failed_jobs(run: Run, make_batch: MakeBatch):
    make_batch("01", 4, succeeded=1, failed=2, name="Nightly")
    result = run("batch", "01")
    assert result.exit_code == 0
    assert "Name:         Nightly\n" in result.stdout
    assert "Jobs:         4 (1 succeeded, 2 failed, 1 outstanding)\n" in result.stdout
    assert "Failed jobs:\n  01-job-1\n  01-job-2\n" in result.stdout


@pytest.mark.parametrize("command", ["batch", "retry-batch", "cancel-batch", "close-batch"])
def test_an_unknown_batch_is_an_error_that_names_close_ones(run: Run, make_batch: MakeBatch, command: str):
    make_batch("0123-4567", 1)
    result = run(command, "0123")
    assert result.exit_code == 1
    assert result.stderr == "Error: There is no batch '0123'. Did you mean 0123-4567?\n"


def test_a_watched_batch_is_followed_to_its_end(run: Run, make_batch: MakeBatch, app: Celery):
    make_batch("01", 2, succeeded=1)
    store = runtime_of(app).store.batches
    last = Timer(0.3, lambda: store.end_member(MemberEnd("01", 1, "late", MemberState.SUCCEEDED)))
    last.start()
    result = run("batch", "01", "--watch")
    last.join()
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        " 50 %  1 of 2 jobs",
        "100 %  2 of 2 jobs",
        "The batch finished: 2 of 2 jobs processed.",
    ]


def test_a_watched_batch_in_json_is_a_document_on_each_line(run: Run, make_batch: MakeBatch):
    make_batch("01", 2, succeeded=2)
    (line,) = run("batch", "01", "--watch", "--json").stdout.splitlines()
    assert json.loads(line)["finished"] is True


def test_watching_tells_by_its_exit_code_whether_all_went_well(run: Run, make_batch: MakeBatch):
    make_batch("01", 1, failed=1)
    make_batch("02", 1, succeeded=1, cancelled=True)
    failed = run("batch", "01", "--watch")
    assert failed.exit_code == 5
    assert "1 failed: `laravel retry-batch 01` tries them again." in failed.stdout
    assert run("batch", "02", "--watch").exit_code == 5


def test_the_failed_jobs_of_a_batch_are_sent_again(run: Run, make_batch: MakeBatch, fail: Fail, waiting: Any):
    make_batch("01", 2, failed=2)
    fail("01-job-0", batch_id="01")
    result = run("retry-batch", "01")
    assert result.stdout == "1 failed job sent again.\n"
    assert result.stderr == "1 failed job cannot be retried: no record is left.\n"
    assert result.exit_code == 1
    assert waiting("celery") == ["01-job-0"]


def test_jobs_of_a_batch_whose_retry_was_broken_off_are_sent_again(
    run: Run, make_batch: MakeBatch, fail: Fail, waiting: Any, app: Celery
):
    """The retry had made them pending."""
    make_batch("01", 1)
    fail("01-job-0", batch_id="01")
    records = runtime_of(app).failed_jobs
    records.claim("01-job-0", owner="somebody", lease=timedelta(seconds=30))
    assert run("retry-batch", "01").stdout == "The batch has no failed jobs.\n"
    records.release("01-job-0", owner="somebody")
    result = run("retry-batch", "01")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "1 failed job sent again.\n", "")
    assert waiting("celery") == ["01-job-0"]
    assert run("retry-batch", "01").stdout == "The batch has no failed jobs.\n"


def test_a_batch_without_failures_has_nothing_to_retry(run: Run, make_batch: MakeBatch):
    make_batch("01", 1, succeeded=1)
    result = run("retry-batch", "01")
    assert (result.exit_code, result.stdout) == (0, "The batch has no failed jobs.\n")


def test_a_batch_is_cancelled_once(run: Run, make_batch: MakeBatch, app: Celery):
    make_batch("01", 2, succeeded=1)
    assert run("cancel-batch", "01").stdout == "The batch is cancelled; 1 job outstanding.\n"
    batch = Bus(app).find_batch("01")
    assert batch is not None
    assert batch.cancelled
    again = run("cancel-batch", "01")
    assert again.exit_code == 0
    assert again.stdout.startswith("The batch was cancelled already, at ")


def test_a_batch_whose_program_is_gone_is_closed(run: Run, app: Celery):
    store = runtime_of(app).store.batches
    for batch_id in ("01", "02"):
        store.create(NewBatch(batch_id))
        store.add(batch_id, 4)
        store.end_members(batch_id, [0])
    assert run("close-batch", "01").stdout == "The batch is closed; 3 jobs outstanding.\n"
    assert run("close-batch", "02", "--unsent", "1-1", "--unsent", "2-3").stdout == (
        "The batch is closed; 0 jobs outstanding.\n"
    )
    whole, broken = (store.find(batch_id) for batch_id in ("01", "02"))
    assert whole is not None
    assert broken is not None
    assert (whole.is_open, whole.cancelled_at, whole.skipped_jobs) == (False, None, 0)
    assert (broken.finished_at is not None, broken.cancelled_at is not None, broken.skipped_jobs) == (True, True, 3)
    assert run("close-batch", "02", "--incomplete").stdout == "The batch is closed; 0 jobs outstanding.\n"
    assert store.find("02") == broken


@pytest.mark.parametrize("given", ["x", "3", "4-3", "-1-2"])
def test_what_is_no_range_is_refused(run: Run, make_batch: MakeBatch, given: str):
    make_batch("01", 1)
    result = run("close-batch", "01", f"--unsent={given}")
    assert result.exit_code == 2
    assert "is no range of numbers" in result.stderr


def test_pruning_takes_what_finished_long_ago_and_more_when_told(run: Run, make_batch: MakeBatch):
    make_batch("01", 1, succeeded=1)
    make_batch("02", 1)
    make_batch("03", 1, cancelled=True)
    assert run("prune-batches").stdout == "0 batches removed.\n"
    assert run("prune-batches", "--hours", "0").stdout == "1 batch removed.\n"
    assert run("prune-batches", "--unfinished", "24", "--cancelled", "24").stdout == "0 batches removed.\n"
    assert run("prune-batches", "--cancelled", "0").stdout == "1 batch removed.\n"
    assert run("prune-batches", "--unfinished", "0").stdout == "1 batch removed.\n"
    assert json.loads(run("batches", "--json").stdout) == []


def test_pruning_by_a_time_that_is_none_is_refused(run: Run):
    result = run("prune-batches", "--hours", "-1")
    assert result.exit_code == 2
    assert "--hours" in result.stderr


def test_of_very_many_failed_jobs_some_are_named_and_all_can_be_had(run: Run, make_batch: MakeBatch, app: Celery):
    make_batch("01", 130, failed=130)
    shown = run("batch", "01").stdout
    assert "130 failed" in shown
    assert "… and 110 more" in shown
    batch = Bus(app).find_batch("01")
    assert batch is not None
    assert sorted(batch.failed_job_ids) == sorted(f"01-job-{number}" for number in range(130))
    data = json.loads(run("batch", "01", "--json").stdout)
    assert (data["failed_jobs"], len(data["failed_job_ids"])) == (130, 100)
