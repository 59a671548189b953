"""The tables of batches: the batches, which members have ended, and which callbacks are due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, SmallInteger, UniqueConstraint, false

from celery_laravel.stores.sqlalchemy.columns import Characters, Identifier, Json, Microseconds, Number, table

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table


def batches_table(metadata: MetaData, prefix: str) -> Table:
    """A row for each batch: its counts, and which of its callbacks are due."""
    return table(
        metadata,
        f"{prefix}_batches",
        Column("number", Number, primary_key=True, autoincrement=True),
        Column("id", Identifier(), nullable=False),
        Column("name", Characters(), nullable=False),
        Column("options", Json(), nullable=False),
        Column("callbacks", Json(), nullable=False),
        Column("allows_failures", Boolean(), nullable=False),
        Column("total", BigInteger(), nullable=False),
        Column("pending", BigInteger(), nullable=False),
        Column("failed", BigInteger(), nullable=False),
        Column("skipped", BigInteger(), nullable=False),
        Column("is_open", Boolean(), nullable=False),
        Column("created_at", Microseconds(), nullable=False),
        Column("cancelled_at", Microseconds()),
        Column("finished_at", Microseconds()),
        Column("first_exception", Json()),
        # How often each thing has happened that fires callbacks the first time.
        Column("times_failed", BigInteger(), nullable=False),
        Column("times_succeeded", BigInteger(), nullable=False),
        Column("times_finished", BigInteger(), nullable=False),
        # How many callbacks there are of each kind, since when they are due, and the earliest of these instants.
        Column("catch_count", Integer(), nullable=False),
        Column("then_count", Integer(), nullable=False),
        Column("finally_count", Integer(), nullable=False),
        Column("catch_due", Microseconds()),
        Column("then_due", Microseconds()),
        Column("finally_due", Microseconds()),
        Column("due", Microseconds()),
        # Those of the due callbacks that have been sent: [[kind, position], …].
        Column("sent", Json(), nullable=False),
        # Whether it has callbacks of other kinds than these three, which have rows of their own while they are due.
        Column("owes", Boolean(), nullable=False, server_default=false()),
        UniqueConstraint("id", name=f"{prefix}_batches_id"),
        Index(f"{prefix}_batches_by_age", "created_at", "id"),
        Index(f"{prefix}_batches_by_end", "finished_at"),
        Index(f"{prefix}_batches_by_due", "due"),
        has_number=True,
    )


def members_table(metadata: MetaData, prefix: str) -> Table:
    """Only members that have ended have a row: a million pending ones cost nothing."""
    return table(
        metadata,
        f"{prefix}_batch_members",
        Column("batch", Number, primary_key=True, autoincrement=False),
        Column("position", Number, primary_key=True, autoincrement=False),
        Column("state", SmallInteger(), nullable=False),
        has_number=False,
    )


def failures_table(metadata: MetaData, prefix: str) -> Table:
    """The ids of failed members, apart: a batch's record has them, and must not look through its members."""
    return table(
        metadata,
        f"{prefix}_batch_failures",
        Column("batch", Number, primary_key=True, autoincrement=False),
        Column("position", Number, primary_key=True, autoincrement=False),
        Column("job_id", Identifier(), nullable=False),
        has_number=False,
    )


def owed_table(metadata: MetaData, prefix: str) -> Table:
    """Due callbacks of kinds that may be due more than once at a time, or for other reasons than counts."""
    return table(
        metadata,
        f"{prefix}_batch_owed",
        Column("batch", Number, primary_key=True, autoincrement=False),
        Column("kind", Identifier(), primary_key=True),
        Column("position", Integer(), primary_key=True, autoincrement=False),
        Column("occasion", Number, primary_key=True, autoincrement=False),  # -1 for none
        Column("due", Microseconds(), nullable=False),
        Column("exception", Json()),
        Index(f"{prefix}_batch_owed_by_due", "due"),
        has_number=False,
    )
