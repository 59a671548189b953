"""An app whose jobs follow scripts, for real workers; `JOBS_BROKER` and its kin in the environment say where.

A scripted job does the n-th step of its script at its n-th run, the last step
repeating, and writes each run into a list of Redis that neither the library nor
Celery knows of. With `JOBS_LEASE`, leases last for so many seconds instead of a
minute. With `JOBS_PATIENCE`, a store that is away is waited for so many seconds instead of ten, and jobs that need
it wait for as long, but for no more than five;
with `JOBS_BACKSTOP`, a timeout that is swallowed is followed by a hard one after so many seconds.
"""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import timedelta
from typing import Any

import redis
from celery import Celery, Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from celery_laravel import Bus, current_job, install, signals
from celery_laravel.attempt import leases, outcome
from celery_laravel.worker import debts, strategy

NAMES = ("broker", "backend", "store", "record", "queue")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tries1": {"tries": 1},
    "tries3": {"tries": 3},
    "backoff": {"tries": 3, "backoff": [0.3, 0.1]},
    "endless": {"tries": 0},
    "max2": {"tries": 9, "max_exceptions": 2},
    "until": {"retry_until": timedelta(seconds=1.5), "backoff": 0.5},
    "timeout": {"tries": 2, "timeout": 1},
    "timeout_fails": {"tries": 5, "timeout": 1, "fail_on_timeout": True},
    "early": {"tries": 3, "acks_late": False},
    "unique": {"tries": 1, "unique": True, "unique_id": lambda job, key, *_: key},
    "celery_retry": {"max_retries": 2, "default_retry_delay": 0},
    "celery_autoretry": {
        "autoretry_for": (OSError,),
        "max_retries": 2,
        "retry_backoff": False,
        "default_retry_delay": 0,
    },
}
"""The kinds of scripted jobs: each is a task of that name, with a hook and a middleware. "bare" has nothing."""

SIGNALS = ("job_processing", "job_processed", "job_exception_occurred", "job_released", "job_failed", "job_timed_out")


class Record:
    """Lists in Redis to which jobs add and which tests read."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, decode_responses=True)

    def add(self, key: str, kind: str, value: Any) -> int:
        """Add to a list and return how long it is now."""
        return int(self.client.rpush(f"record:{key}:{kind}", json.dumps(value, default=str)))

    def all(self, key: str, kind: str) -> list[Any]:
        """What was added, in order."""
        return [json.loads(value) for value in self.client.lrange(f"record:{key}:{kind}", 0, -1)]


def make_app(broker: str, backend: str, store: str, record: str, queue: str, **conf: Any) -> Celery:
    """The app with all its jobs; the test and its workers each make one."""
    app = Celery("jobs", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(
        task_default_queue=queue,
        laravel_store=store,
        laravel_prefix=queue,
        accept_content=["json", "pickle"],
        result_accept_content=["json", "pickle"],
        broker_connection_retry_on_startup=True,
        worker_prefetch_multiplier=1,
        task_track_started=True,
    )
    if broker.startswith("redis"):
        app.conf.broker_transport_options = {
            "visibility_timeout": 3,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "global_keyprefix": f"{queue}:",
        }
    app.conf.update(**conf)
    install(app)
    app.record = Record(record)
    _declare_scripted(app)
    _declare_others(app)
    return app


def _declare_scripted(app: Celery) -> None:
    record = app.record

    def failed(job: Any, exc: BaseException, key: str, *args: Any) -> None:
        record.add(key, "failed", f"{type(exc).__name__}: {exc}")
        record.add(key, "failed_in", [os.getpid(), job.request.id, job.attempts])

    def log(job: Any, go_on: Any) -> Any:
        record.add(job.arguments["key"], "middleware", job.attempts)
        return go_on(job)

    def play(self: Any, key: str, script: list[str], *rest: Any) -> Any:
        run = {
            "attempt": self.attempts,
            "pid": os.getpid(),
            "at": time.time(),
            "rest": list(rest),
            "id": self.request.id,
        }
        run["queue"] = (self.request.delivery_info or {}).get("routing_key")
        run["current"] = current_job() is self._get_current_object() if hasattr(self, "_get_current_object") else True
        number = record.add(key, "runs", run)
        value = None
        for action in script[min(number, len(script)) - 1].split("+"):
            value = _do(self, key, *action.partition(":")[::2])
        return value

    for name, options in OPTIONS.items():
        app.task(play, name=name, bind=True, shared=False, failed=failed, middleware=[log], **options)
    app.task(play, name="bare", bind=True, shared=False)
    if os.environ.get("JOBS_SIGNALS"):
        _record_signals(record)


def _do(job: Any, key: str, action: str, argument: str) -> Any:
    """Do one action of a script."""
    actions = {
        "return": lambda: argument,
        "raise": lambda: _raise(OSError(argument)),
        "release": lambda: job.release(float(argument or 0)),
        "fail": lambda: job.fail(argument or None),
        "delete": job.delete,
        "retry": lambda: job.retry(exc=OSError("retried"), countdown=0),
        "ignore": lambda: _raise(Ignore()),
        "reject": lambda: _raise(Reject("no", requeue=False)),
        "exit": lambda: _raise(SystemExit(argument)),
        "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "stubborn": lambda: _swallow_timeouts(float(argument)),
        "wait": lambda: _wait_for(job.app.record, key, float(argument or 30)),
        "add": lambda: job.batch.add([job.app.signature("plain", (argument, ["return:added"]))]),
        "cancel": lambda: job.batch.cancel() and None,
        "replace": lambda: job.replace(job.app.signature("plain", (f"{key}:{argument}", ["return:replaced"]))),
        "prepend": lambda: job.prepend_to_chain(_step(job.app, f"{key}:{argument}", "return:added")),
        "append": lambda: job.append_to_chain(_step(job.app, f"{key}:{argument}", "return:added")),
        "prepend_failing": lambda: job.prepend_to_chain(_step(job.app, f"{key}:{argument}", "raise:added")),
        "replace_group": lambda: job.replace(_group(job.app, key)),
        "replace_chain": lambda: job.replace(_group(job.app, key, is_chain=True)),
    }
    return actions[action]()


def _step(app: Celery, key: str, action: str) -> Any:
    return app.signature("tries1", (key, [action]), immutable=True)


def _group(app: Celery, key: str, *, is_chain: bool = False) -> Any:
    from celery import chain, group

    steps = [app.signature("plain", (f"{key}:{n}", [f"return:{n}"]), immutable=True) for n in (1, 2)]
    return (chain if is_chain else group)(*steps)


def _raise(error: BaseException) -> None:
    raise error


def _swallow_timeouts(seconds: float) -> None:
    """Go on for so many seconds, whatever is raised meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.05)
        except SoftTimeLimitExceeded:
            continue


def _wait_for(record: Record, key: str, timeout: float) -> None:
    """Wait until the test says go on, or for so many seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end and not record.client.blpop([f"record:{key}:go"], timeout=1):  # a socket's patience
        pass


def _record_signals(record: Record) -> None:
    for name in SIGNALS:

        def receive(sender: Any, task_id: str, name: str = name, **_: Any) -> None:
            record.add(task_id, "signals", name)
            record.add(task_id, "signals_in", os.getpid())

        getattr(signals, name).connect(receive, weak=False)


def _declare_others(app: Celery) -> None:  # noqa: C901  a list of tasks
    record = app.record

    @app.task(name="note", shared=False)
    def note(*args: Any) -> None:
        """Write its last argument's list: (…, key)."""
        *values, key = args
        record.add(key, "notes", [repr(value) for value in values])

    @app.task(name="total", shared=False)
    def total(values: list[Any], key: str) -> list[Any]:
        record.add(key, "notes", values)
        return values

    @app.task(name="echo", shared=False, tries=2, bind=True)
    def echo(self: Any, key: str, value: Any) -> Any:
        """Release itself once, then give its argument back; what came is written down."""
        record.add(key, "runs", [type(value).__name__, repr(value), self.request.delivery_info.get("priority")])
        if self.attempts == 1:
            self.release(0)
        return repr(value)

    @app.task(name="breaks", shared=False, tries=1, bind=True)
    def breaks(self: Any, key: str, value: Any, **kwargs: Any) -> Any:
        """Fail at the first run, and give back what it was given at the next."""
        first = (
            record.add(
                key, "runs", [repr(value), repr(kwargs), self.attempts, (self.request.headers or {}).get("mine")]
            )
            == 1
        )
        if first:
            raise OSError("first")
        return repr(value)

    @app.task(name="inner_sync", shared=False, bind=True, tries=1)
    def inner_sync(self: Any, key: str) -> Any:
        return [self.app.tasks["tries3"].dispatch_sync(f"{key}:in", ["return:in"]), self.attempts]

    class Context(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            record.add(args[0], "context", "enter")
            return super().__call__(*args, **kwargs)

    class DiesLate(Task):
        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            if record.add(args[0], "deaths", 1) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="dies_late", shared=False, base=DiesLate)
    def dies_late(key: str) -> None:
        """Lose its process after its success is stored, before anything follows from it."""
        record.add(key, "runs", 1)

    class LosesWorkerLate(Task):
        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            if record.add(args[0], "deaths", 1) == 1:
                os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)

    def failed(job: Any, exc: BaseException, key: str) -> None:
        record.add(key, "failed", f"{type(exc).__name__}: {exc}")

    def lose_worker(key: str) -> str:
        """Lose the whole worker after its success is stored, before anything follows from it."""
        return f"run {record.add(key, 'runs', 1)}"

    for name, options in {
        "tries1": {"tries": 1},
        "tries3": {"tries": 3},
        "unique": {"tries": 1, "unique": True},
    }.items():
        base = {"base": LosesWorkerLate, "shared": False, "failed": failed}
        app.task(lose_worker, name=f"loses_worker_{name}", **base, **options)

    class SlowToRetry(Task):
        def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            record.add(args[0], "retries", 1)
            _wait_for(record, args[0], 30)

    @app.task(name="slow_to_retry", shared=False, base=SlowToRetry, tries=2, bind=True)
    def slow_to_retry(self: Any, key: str, script: list[str]) -> Any:
        """Go back to the queue by an exception at the first run, and wait then, with the message on its way."""
        if record.add(key, "runs", {"attempt": self.attempts}) == 1:
            _do(self, key, *script[0].partition(":")[::2])
            return None
        return "done"

    @app.task(name="wrapped", shared=False, bind=True, base=Context, tries=3)
    def wrapped(self: Any, key: str) -> Any:
        record.add(key, "runs", self.attempts)
        if self.attempts < 2:
            raise OSError
        return self.attempts

    @app.task(name="unserializable", shared=False, tries=3)
    def unserializable(key: str) -> Any:
        record.add(key, "runs", 1)
        return object()

    @app.task(name="batch_of", shared=False)
    def batch_of(key: str, count: int) -> str:
        return str(Bus(app).batch([app.signature("plain", (key, ["return:x"])) for _ in range(count)]).dispatch().id)


if _lease := os.environ.get("JOBS_LEASE"):
    leases.LEASE, leases.INTERVAL = timedelta(seconds=float(_lease)), float(_lease) / 6

if _backstop := os.environ.get("JOBS_BACKSTOP"):
    strategy.BACKSTOP = float(_backstop)
if _patience := os.environ.get("JOBS_PATIENCE"):
    _wait = min(float(_patience), 5.0)
    debts.PATIENCE, outcome.OUTAGE_WAIT = float(_patience), (_wait, _wait)

_given = {name: os.environ.get(f"JOBS_{name.upper()}") for name in NAMES}
if all(_given.values()):
    app = make_app(
        **{name: value for name, value in _given.items() if value}, **json.loads(os.environ.get("JOBS_CONF", "{}"))
    )
