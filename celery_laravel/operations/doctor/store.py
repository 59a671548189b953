"""Whether the store is there, and keeps what it is given."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.errors import CeleryLaravelError, ConfigurationError
from celery_laravel.operations.doctor.findings import Finding, Level
from celery_laravel.settings import settings_of
from celery_laravel.stores.factory import failed_jobs_of, store_of
from celery_laravel.stores.records import Persistence

if TYPE_CHECKING:
    from celery_laravel.operations.doctor.examination import Examination
    from celery_laravel.stores.records import StoreCondition

SKEW = 5.0
"""Seconds by which clocks may differ before it is told."""


def check_store(found: Examination) -> bool:
    """Look at the store; True when it can be asked for more."""
    if settings_of(found.app).store_is_untouched:  # to look into it would make it
        problem = f"The store {found.store} is not there yet: nothing has been kept so far."
        advice = "Nothing, if workers and producers run in this folder; else give them one place by 'laravel_store'."
        found.findings.append(Finding("untouched-store", problem, advice, Level.NOTE))
        return False
    asked, since = clock.now(), time.monotonic()
    try:
        condition = store_of(found.app).condition()
    except ConfigurationError as error:
        advice = "Mend that first: until then no job is counted, locked or limited."
        found.findings.append(Finding("store-misconfigured", str(error), advice))
        return False
    except CeleryLaravelError as error:
        advice = "Start the store, or mend 'laravel_store'. Until it answers no job is counted, locked or limited."
        found.findings.append(Finding("store-unreachable", str(error), advice))
        return False
    found.findings += _of_condition(found.store, condition)
    found.findings += _of_clock(condition, asked, time.monotonic() - since)
    return not condition.pending_migrations


def check_failed_store(found: Examination) -> None:
    """Look whether failed jobs can be kept, where that is another place."""
    settings = settings_of(found.app)
    if settings.failed_store == settings.store:
        return
    try:
        failed_jobs_of(found.app).all(limit=1)
    except CeleryLaravelError as error:
        advice = "Failed jobs leave no record meanwhile. Start that store, or mend 'laravel_failed_store'."
        found.findings.append(Finding("failed-store-unreachable", str(error), advice))


def conditions_of(where: str, condition: StoreCondition) -> list[Finding]:
    """What may make a Redis lose what it was given; ``where`` begins the sentences."""
    findings = []
    if condition.persistence is Persistence.NONE:
        advice = "Switch on its append-only file: CONFIG SET appendonly yes, and the same in redis.conf."
        problem = f"{where} keeps nothing on disk: a restart forgets everything."
        findings.append(Finding("not-persistent", problem, advice))
    elif condition.persistence is Persistence.SNAPSHOTS:
        advice = "Where that matters, switch on its append-only file: CONFIG SET appendonly yes, and in redis.conf."
        problem = f"{where} keeps snapshots only: a crash forgets the last minutes."
        findings.append(Finding("snapshots-only", problem, advice, Level.NOTE))
    if condition.eviction:
        problem = f"{where} throws keys away when its memory is full (maxmemory-policy {condition.eviction})."
        advice = "Set maxmemory-policy to noeviction. A full server then refuses, instead of forgetting."
        findings.append(Finding("eviction", problem, advice))
    if condition.refusal:
        problem = f"{where} takes no changes: {condition.refusal}."
        findings.append(Finding("refuses-changes", problem, "Mend that, or name the server that can be written to."))
    return findings


def _of_condition(url: str, condition: StoreCondition) -> list[Finding]:
    findings = conditions_of(f"The store {url}", condition)
    if condition.pending_migrations:
        lacking = condition.pending_migrations
        what = "a migration" if len(lacking) == 1 else f"{len(lacking)} migrations"
        problem = f"The store's tables lack {what}: {', '.join(lacking)}"
        advice = "Run `celery -A app laravel migrate`."
        findings.append(Finding("not-migrated", problem, f"{advice} Jobs cannot be worked until then."))
    if condition.is_private:
        problem = f"The store {url} lives in one process: workers and producers do not see each other's records."
        advice = "Set 'laravel_store' to a Redis or a database; memory:// is for tests."
        findings.append(Finding("private-store", problem, advice))
    return findings


def _of_clock(condition: StoreCondition, asked: float, took: float) -> list[Finding]:
    now = condition.now.timestamp()
    ahead = now - min(max(now, asked), asked + took)
    if abs(ahead) < SKEW:
        return []
    direction = "ahead of" if ahead > 0 else "behind"
    problem = f"The store's clock is {timedelta(seconds=round(abs(ahead)))} {direction} this machine's."
    advice = "Synchronise the clocks (NTP). Locks go by the store's clock, `expires` and `eta` by the workers'."
    return [Finding("clock-skew", problem, advice)]
