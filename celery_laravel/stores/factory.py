"""From a URL to a store, and from an app to its stores.

A back end is imported when its URL asks for it: each needs a client that
another app may not have installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from celery_laravel.errors import ConfigurationError
from celery_laravel.settings import settings_of, without_password

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from celery import Celery

    from celery_laravel.stores.contracts import FailedJobStore, Store
    from celery_laravel.stores.records import FailedJob

_REDIS = frozenset({"redis", "rediss", "redis+socket", "sentinel", "redis+cluster", "rediss+cluster"})


def open_store(url: str, *, prefix: str = "laravel", named_by: str = "The setting 'laravel_store'") -> Store:
    """A store for a URL. It connects when it is first used, in each process anew; ``named_by`` is for errors.

    Raises:
        ConfigurationError: The URL's scheme is not known, or the extra that it
            needs is not installed.
    """
    scheme = url.partition("://")[0]
    if scheme == "memory":
        from celery_laravel.stores.memory import MemoryStore

        return MemoryStore(url, prefix)
    if scheme in _REDIS:
        try:
            from celery_laravel.stores.redis import RedisStore
        except ModuleNotFoundError as error:
            raise _missing_extra(url, "redis", error) from error
        return RedisStore(url, prefix)
    try:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        from celery_laravel.stores.sqlalchemy import SQLAlchemyStore
    except ModuleNotFoundError as error:
        raise _missing_extra(url, _sql_extra(scheme), error) from error
    try:
        make_url(url).get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        msg = (
            f"{named_by} = {without_password(url)!r} is no store this library knows. "
            "Use redis://, rediss://, sentinel://, postgresql+psycopg://user:password@host/database, "
            "mysql+pymysql://user:password@host/database, sqlite:///jobs.db, or memory://."
        )
        raise ConfigurationError(msg) from error
    return SQLAlchemyStore(url, prefix)


class NullFailedJobStore:
    """A `FailedJobStore` that keeps nothing (``null://``)."""

    def record(self, job: FailedJob) -> bool:
        """Take the record as new, so that hooks and signals run as for any failure."""
        return True

    def find(self, job_id: str) -> FailedJob | None:
        """Nothing is kept."""
        return None

    def all(self, *, queue: str | None = None, limit: int | None = None) -> list[FailedJob]:
        """Nothing is kept."""
        return []

    def count(self, *, queue: str | None = None) -> int:
        """Nothing is kept."""
        return 0

    def claim(self, job_id: str, *, owner: str, lease: timedelta) -> FailedJob | None:
        """Nothing is kept."""
        return None

    def release(self, job_id: str, *, owner: str) -> bool:
        """Nothing is kept."""
        return False

    def interrupted(self, batch_id: str) -> list[FailedJob]:
        """Nothing is kept."""
        return []

    def forget(self, job_id: str, *, owner: str | None = None) -> bool:
        """Nothing is kept."""
        return False

    def flush(self, *, before: datetime | None = None) -> int:
        """Nothing is kept."""
        return 0


_stores: WeakKeyDictionary[Celery, Store] = WeakKeyDictionary()
_others: WeakKeyDictionary[Celery, dict[str, Store]] = WeakKeyDictionary()


def store_of(app: Celery) -> Store:
    """The app's store, opened the first time it is asked for."""
    store = _stores.get(app)
    if store is None:
        settings = settings_of(app)
        store = _stores.setdefault(app, open_store(settings.store, prefix=settings.prefix))
    return store


def store_at(app: Celery, url: str, *, named_by: str) -> Store:
    """Another store of the app's, opened the first time it is asked for; its own one where the URL is that."""
    settings = settings_of(app)
    if url == settings.store:
        return store_of(app)
    others = _others.setdefault(app, {})
    store = others.get(url)
    if store is None:
        store = others.setdefault(url, open_store(url, prefix=settings.prefix, named_by=named_by))
    return store


def failed_jobs_of(app: Celery) -> FailedJobStore:
    """Where the app keeps its failed jobs: its store, unless ``laravel_failed_store`` says otherwise."""
    url = settings_of(app).failed_store
    if url.startswith("null://"):
        return NullFailedJobStore()
    if url.startswith("dynamodb://"):
        msg = f"The setting 'laravel_failed_store' = {url!r}: DynamoDB is not available in this version."
        raise ConfigurationError(msg)
    return store_at(app, url, named_by="The setting 'laravel_failed_store'").failed_jobs


def forget_stores(app: Celery) -> None:
    """Close the app's stores and open them anew when they are next used: its settings have been changed."""
    store = _stores.pop(app, None)
    for opened in (*([] if store is None else [store]), *_others.pop(app, {}).values()):
        opened.close()


def _sql_extra(scheme: str) -> str:
    """The extra that brings what a URL of SQLAlchemy's needs, its driver included."""
    dialect = scheme.partition("+")[0]
    return {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}.get(dialect, "sqlalchemy")


def _missing_extra(url: str, extra: str, error: ModuleNotFoundError) -> Exception:
    if str(error.name).startswith("celery_laravel"):
        return error
    return ConfigurationError(
        f"The store {without_password(url)!r} needs the module {error.name!r}, which is not installed: "
        f"pip install 'celery-laravel[{extra}]'."
    )
