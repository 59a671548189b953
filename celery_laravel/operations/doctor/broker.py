"""Whether the broker is there, whether somebody takes from its queues, and how long it waits for jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_laravel import clock
from celery_laravel.errors import CeleryLaravelError
from celery_laravel.operations.doctor.findings import Finding
from celery_laravel.operations.doctor.store import conditions_of
from celery_laravel.settings import settings_of, without_password
from celery_laravel.stores.records import StoreCondition
from celery_laravel.worker.visibility_timeout import long_jobs

if TYPE_CHECKING:
    from celery_laravel.operations.doctor.examination import Examination


def check_broker(found: Examination) -> bool:
    """Look whether the broker answers; True when it does."""
    app = found.app
    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
            found.findings += _of_redis(found, connection)
    except Exception as error:  # each transport has errors of its own
        if isinstance(error, CeleryLaravelError) and not getattr(error, "is_passing", False):
            advice = "Mend that first: until then nothing can be dispatched or worked."
            found.findings.append(Finding("broker-misconfigured", str(error), advice))
            return False
        urls = app.conf.broker_read_url or app.conf.broker_url or "amqp://"
        where = without_password(urls if isinstance(urls, str) else ", ".join(urls))
        problem = f"The broker at {where} cannot be reached: {error}"
        advice = "Start it, or mend 'broker_url'. Until it answers nothing can be dispatched or worked."
        found.findings.append(Finding("broker-unreachable", problem, advice))
        return False
    return True


def check_queues(found: Examination) -> None:
    """Find queues with messages that no worker takes from."""
    if not found.workers:
        return  # which is told of already
    taken = {queue for worker in found.workers for queue in worker.queues}
    for queue, count in found.messages.waiting.items():
        if count and queue not in taken:
            problem = f"No worker takes from the queue {queue!r}, in which messages wait: {count:,}."
            advice = f"Start one that does: `celery -A app worker -Q {queue}`; or mend the routes that lead there."
            found.findings.append(Finding("queue-without-worker", problem, advice))


def check_timeouts(found: Examination) -> None:
    """Find jobs that may run for longer than the broker waits before it delivers them again."""
    wait, too_long = long_jobs(found.app)
    if wait is not None and too_long:
        problem = (
            f"The broker delivers a job again after {wait.seconds:g} s ({wait.option}), although it still runs. "
            f"These may run for as long or longer: {', '.join(str(job) for job in too_long)}."
        )
        found.findings.append(Finding("visibility-timeout", problem, wait.advice(too_long)))


def _of_redis(found: Examination, connection: Any) -> list[Finding]:
    """A Redis broker may forget as a Redis store may; where they are one, it has been told of the store."""
    settings = settings_of(found.app)
    url = found.app.conf.broker_read_url or found.app.conf.broker_url
    channel = connection.default_channel
    if not hasattr(channel, "unacked_key") or url == settings.store:
        return []
    from celery_laravel.stores.redis.condition import facts_of  # Redis is an extra, which this broker has needed

    with channel.conn_or_acquire() as client:
        facts = facts_of(client.execute_command)
    return conditions_of("The Redis broker", StoreCondition(clock.as_datetime(clock.now()), **facts))
