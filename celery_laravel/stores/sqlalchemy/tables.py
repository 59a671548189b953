"""The tables, for a prefix.

Who runs Alembic for the rest of a database and wants these tables there too
gives Alembic the `MetaData` of `metadata_for` among its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    UniqueConstraint,
)

from celery_laravel.errors import ConfigurationError
from celery_laravel.stores.sqlalchemy.batch_tables import batches_table, failures_table, members_table, owed_table
from celery_laravel.stores.sqlalchemy.columns import Characters, Identifier, Json, Key, Microseconds, Number, table

LONGEST_PREFIX = 30  # PostgreSQL cuts names at 63 characters, and the longest index adds 27 to it


@dataclass(frozen=True)
class Tables:
    """The tables of one prefix."""

    metadata: MetaData
    attempts: Table
    batches: Table
    members: Table
    failures: Table
    owed: Table
    failed_jobs: Table
    locks: Table
    limits: Table
    limit_windows: Table
    limit_starts: Table
    debounces: Table
    delays: Table


def metadata_for(prefix: str = "laravel") -> MetaData:
    """The tables of a store with that prefix, as SQLAlchemy describes them; for Alembic's ``target_metadata``."""
    return tables_for(prefix).metadata


def version_table_for(prefix: str = "laravel") -> str:
    """The table that holds the version of the tables; its own, so that a project's migrations are not disturbed."""
    return f"{prefix}_alembic_version"


@lru_cache(maxsize=32)
def tables_for(prefix: str) -> Tables:
    """The tables of a store with that prefix.

    Raises:
        ConfigurationError: The prefix is too long for the names of tables and
            indexes.
    """
    if len(prefix) > LONGEST_PREFIX:
        msg = (
            f"The setting 'laravel_prefix' = {prefix!r} has {len(prefix)} characters. "
            f"In an SQL store it begins the names of tables: choose one of at most {LONGEST_PREFIX}."
        )
        raise ConfigurationError(msg)
    metadata = MetaData()
    return Tables(
        metadata,
        _attempts(metadata, prefix),
        batches_table(metadata, prefix),
        members_table(metadata, prefix),
        failures_table(metadata, prefix),
        owed_table(metadata, prefix),
        _failed_jobs(metadata, prefix),
        _locks(metadata, prefix),
        _limits(metadata, prefix),
        _limit_windows(metadata, prefix),
        _limit_starts(metadata, prefix),
        _debounces(metadata, prefix),
        _delays(metadata, prefix),
    )


def _attempts(metadata: MetaData, prefix: str) -> Table:
    return table(
        metadata,
        f"{prefix}_attempts",
        Column("job_id", Identifier(), primary_key=True),
        Column("turn", Integer(), nullable=False),
        Column("attempts", Integer(), nullable=False),
        Column("exceptions", Integer(), nullable=False),
        Column("state", SmallInteger(), nullable=False),
        Column("owner", Identifier(), nullable=False),
        # The end of the lease while the turn is open; when the next one is due once it has been put back.
        Column("until", Microseconds(), nullable=False),
        Column("keep", Microseconds(), nullable=False),
        Column("expires", Microseconds(), nullable=False),
        Index(f"{prefix}_attempts_by_expiry", "expires"),
        has_number=False,
    )


def _failed_jobs(metadata: MetaData, prefix: str) -> Table:
    return table(
        metadata,
        f"{prefix}_failed_jobs",
        Column("number", Number, primary_key=True, autoincrement=True),
        Column("id", Identifier(), nullable=False),
        Column("connection", Characters(), nullable=False),
        Column("queue", Characters(), nullable=False),
        Column("task", Characters(), nullable=False),
        Column("args_repr", Characters(), nullable=False),
        Column("kwargs_repr", Characters(), nullable=False),
        Column("exception", Characters(), nullable=False),
        Column("traceback", Characters(), nullable=False),
        Column("failed_at", Microseconds(), nullable=False),
        Column("attempts", Integer(), nullable=False),
        Column("batch_id", Identifier()),
        Column("payload", Json(), nullable=False),
        # Who has begun to retry it, and until when nobody else may; both stay when that has come to no end.
        Column("claimed_by", Identifier()),
        Column("claimed_until", Microseconds()),
        UniqueConstraint("id", name=f"{prefix}_failed_jobs_id"),
        Index(f"{prefix}_failed_jobs_by_age", "failed_at", "number"),
        Index(f"{prefix}_failed_jobs_by_queue", "queue", "failed_at", mysql_length={"queue": 191}),
        Index(f"{prefix}_failed_jobs_by_claim", "claimed_until"),
        has_number=True,
    )


def _locks(metadata: MetaData, prefix: str) -> Table:
    """A row for each hold. The row of slot 0 is the lock of its key."""
    return table(
        metadata,
        f"{prefix}_locks",
        Column("key", Key(), primary_key=True),
        Column("slot", Integer(), primary_key=True, autoincrement=False),
        Column("owner", Key(), nullable=False),
        Column("kind", Characters(), nullable=False),
        Column("task", Characters(), nullable=False),
        Column("is_lease", Boolean(), nullable=False),
        # The call in which its owner last asked for it, and whether it had it before: a repeated call is told the same.
        Column("call", BigInteger(), nullable=False),
        Column("was_held", Boolean(), nullable=False),
        Column("payload", Characters()),
        Column("taken", Microseconds(), nullable=False),
        Column("expires", Microseconds(), nullable=False),  # `FOR_EVER` or more: until it is freed
        Index(f"{prefix}_locks_by_owner", "owner"),
        Index(f"{prefix}_locks_by_expiry", "expires"),
        has_number=False,
    )


def _limits(metadata: MetaData, prefix: str) -> Table:
    """A row for each key, which is the lock of its windows: their grid."""
    return table(
        metadata,
        f"{prefix}_limits",
        Column("number", Number, primary_key=True, autoincrement=True),
        Column("name", Key(), nullable=False),
        Column("key", Key(), nullable=False),
        # The start of window 0, how long each lasts, and the end of the last in which a start is counted.
        Column("opened", Microseconds(), nullable=False),
        Column("length", Microseconds(), nullable=False),
        Column("expires", Microseconds(), nullable=False),
        # The window of the last change, and the last in which a start is kept for somebody.
        Column("current", BigInteger(), nullable=False),
        Column("last_kept", BigInteger(), nullable=False),
        # From the current window up to this one, each has so many starts or more.
        Column("room_from", BigInteger(), nullable=False),
        Column("room_limit", BigInteger(), nullable=False),
        UniqueConstraint("name", "key", name=f"{prefix}_limits_key"),
        Index(f"{prefix}_limits_by_expiry", "expires"),
        has_number=True,
    )


def _limit_windows(metadata: MetaData, prefix: str) -> Table:
    """Only windows in which starts are counted have a row."""
    return table(
        metadata,
        f"{prefix}_limit_windows",
        Column("grid", Number, primary_key=True, autoincrement=False),
        Column("position", Number, primary_key=True, autoincrement=False),
        Column("starts", BigInteger(), nullable=False),
        # Those of them that are kept, and not granted to anybody yet.
        Column("unclaimed", BigInteger(), nullable=False),
        has_number=False,
    )


def _limit_starts(metadata: MetaData, prefix: str) -> Table:
    """The starts that are kept for callers."""
    return table(
        metadata,
        f"{prefix}_limit_starts",
        Column("grid", Number, primary_key=True, autoincrement=False),
        Column("caller", Key(), primary_key=True),
        Column("position", BigInteger(), nullable=False),
        Index(f"{prefix}_limit_starts_by_position", "grid", "position"),
        has_number=False,
    )


def _debounces(metadata: MetaData, prefix: str) -> Table:
    """A row for each period of each key."""
    return table(
        metadata,
        f"{prefix}_debounces",
        Column("key", Key(), primary_key=True),
        Column("period", BigInteger(), primary_key=True, autoincrement=False),
        Column("opened", Microseconds(), nullable=False),
        Column("expires", Microseconds(), nullable=False),
        Column("reserved", BigInteger(), nullable=False),
        # The place that supersedes those of lower numbers, and its job: empty if it started before it was confirmed.
        Column("newest", BigInteger(), nullable=False),
        Column("job_id", Characters(), nullable=False),
        # The numbers of the places whose jobs have started.
        Column("started", Json(), nullable=False),
        Index(f"{prefix}_debounces_by_expiry", "expires"),
        has_number=False,
    )


def _delays(metadata: MetaData, prefix: str) -> Table:
    """A row for each message that waits."""
    return table(
        metadata,
        f"{prefix}_delays",
        Column("number", Number, primary_key=True, autoincrement=True),
        Column("entry", Key(), nullable=False),
        Column("job_id", Identifier(), nullable=False),
        Column("task", Characters(), nullable=False),
        Column("queue", Characters(), nullable=False),
        Column("message", Characters(), nullable=False),
        Column("due", Microseconds(), nullable=False),
        # When it may be claimed: when it is due, or once the lease of who claimed it is over.
        Column("leaves", Microseconds(), nullable=False),
        Column("parked", Microseconds(), nullable=False),
        Column("is_revoked", Boolean(), nullable=False),
        UniqueConstraint("entry", name=f"{prefix}_delays_entry"),
        Index(f"{prefix}_delays_by_leaving", "leaves"),
        Index(f"{prefix}_delays_by_due", "due", "number"),
        Index(f"{prefix}_delays_by_job", "job_id"),
        Index(f"{prefix}_delays_by_queue", "queue", "due", mysql_length={"queue": 191}),
        has_number=True,
    )
