"""``migrate``: the tables of SQL stores and of database brokers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from celery_laravel.attempt.unique import urls_elsewhere
from celery_laravel.cli.exits import CommandError, Exit
from celery_laravel.cli.session import Session, session_of
from celery_laravel.settings import settings_of, without_password
from celery_laravel.stores.factory import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@click.command()
@click.pass_context
def migrate(ctx: click.Context) -> None:
    """Bring the tables of SQL stores and brokers up to date; a second run changes nothing."""
    session = session_of(ctx)
    _migrate_stores(session)
    _migrate_brokers(session)


def _migrate_stores(session: Session) -> None:
    for url, store in _stores(session):
        if not hasattr(store, "migrate"):
            session.output.say(f"{url}: nothing to do, this kind of store has no tables.")
            continue
        try:
            pending = store.pending_migrations()
            store.migrate()
        except ModuleNotFoundError as error:
            msg = f"Migrations need the module {error.name!r}: pip install 'celery-laravel[sqlalchemy]'."
            raise CommandError(msg, Exit.MISCONFIGURED) from error
        session.output.say(f"{url}: {'migrated to ' + pending[-1] if pending else 'up to date'}.")


def _migrate_brokers(session: Session) -> None:
    conf = session.app.conf
    own = [conf.broker_url, conf.broker_write_url, conf.broker_read_url]
    urls = _urls([*own, *settings_of(session.app).connections.values()])
    if not any(url.startswith("database+") for url in urls):
        return  # without loading SQLAlchemy
    from celery_laravel.transport.database.migrating import brokers_to_migrate, migrate

    for url, options in brokers_to_migrate(urls, conf.broker_transport_options or {}).items():
        steps = migrate(options)
        session.output.say(f"{url}: {f'migrated to {steps[-1]}' if steps else 'up to date'}.")


def _urls(given: Iterable[str | Sequence[str] | None]) -> list[str]:
    """Each URL of settings that may have several, in a list or between semicolons."""
    several = [one.split(";") if isinstance(one, str) else list(one or ()) for one in given]
    return list(dict.fromkeys(url for urls in several for url in urls))


def _stores(session: Session) -> Iterator[tuple[str, Any]]:
    """The app's stores with their URLs, each database once; closed when the caller goes on."""
    settings = settings_of(session.app)
    session.try_to_load_tasks("Stores that tasks name by unique_via are left out")
    named = {
        settings.store: "The setting 'laravel_store'",
        settings.failed_store: "The setting 'laravel_failed_store'",
        **{url: f"Task {task!r}: unique_via" for url, task in urls_elsewhere(session.app).items()},
    }
    for url, named_by in named.items():
        if url.startswith("null://"):
            continue
        store = open_store(url, prefix=settings.prefix, named_by=named_by)
        try:
            yield without_password(url), store
        finally:
            store.close()
