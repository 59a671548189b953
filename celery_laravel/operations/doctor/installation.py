"""Whether the workers are there, are of one mind, and have all their parts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel._version import __version__
from celery_laravel.operations.doctor.findings import Finding
from celery_laravel.operations.doctor.store import SKEW
from celery_laravel.settings import settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_laravel.operations.doctor.examination import Examination

STEPS = {
    "Delays": "jobs that wait in the store do not go to their queues",
    "DueCallbacks": "callbacks of batches that are owed are not sent",
    "Leases": "locks and attempts of jobs that block their process are not kept",
}
"""The parts of a worker, and what happens without them."""


def check_workers(found: Examination) -> None:
    """Look at what the workers told of themselves."""
    if not found.workers:
        problem = "No worker answers: nothing is worked."
        advice = "Start one: `celery -A app worker`. One that is busy with a solo pool answers between jobs only."
        found.findings.append(Finding("no-worker", problem, advice))
        return
    found.findings += [*_strangers(found), *_versions(found), *_stores(found), *_steps(found), *_clocks(found)]


def _strangers(found: Examination) -> Iterator[Finding]:
    names = ", ".join(worker.name for worker in found.workers if not worker.is_installed)
    if names:
        problem = f"These workers do not have celery-laravel: {names}. Their jobs have no attempts, locks or batches."
        advice = (
            "Start them from an app that `install(app)` was called for, with the version of this library that the "
            "producers have; or give their tasks a queue of their own."
        )
        yield Finding("worker-without-library", problem, advice)


def _versions(found: Examination) -> Iterator[Finding]:
    versions = {worker.name: worker.version for worker in found.installed}
    if set(versions.values()) - {__version__}:
        told = ", ".join(f"{name} {version}" for name, version in versions.items())
        problem = f"Versions of celery-laravel differ: {told}; this process has {__version__}."
        advice = "Deploy one version, the workers before the producers."
        yield Finding("mixed-versions", problem, advice)


def _stores(found: Examination) -> Iterator[Finding]:
    prefix = settings_of(found.app).prefix
    for worker in found.installed:
        if (worker.store, worker.prefix) != (found.store, prefix):
            problem = (
                f"The worker {worker.name} keeps its records in {worker.store} under {worker.prefix!r}, "
                f"this app in {found.store} under {prefix!r}."
            )
            advice = "If these are not two names of one place, give all the same 'laravel_store' and 'laravel_prefix'."
            yield Finding("other-store", problem, advice)


def _steps(found: Examination) -> Iterator[Finding]:
    for worker in found.installed:
        for step, outcome in STEPS.items():
            if step not in worker.steps:
                problem = f"The worker {worker.name} runs without its part {step}: {outcome}."
                advice = "Call `install(app)` where the app is made, before the worker builds its consumer."
                yield Finding("missing-step", problem, advice)


def _clocks(found: Examination) -> Iterator[Finding]:
    for worker in found.installed:
        if abs(worker.ahead) >= SKEW:
            direction = "ahead of" if worker.ahead > 0 else "behind"
            lag = timedelta(seconds=round(abs(worker.ahead)))
            problem = f"The clock of the worker {worker.name} is {lag} {direction} this machine's."
            yield Finding("clock-skew", problem, "Synchronise the clocks (NTP): `expires` and `eta` go by them.")
