"""What the library costs, against plain Celery: `make bench`.

A module of this folder is a benchmark if it has ``run(rounds) -> list[dict]``. A dict is a row of the
table: ``name``, ``ours``, ``theirs``, ``unit``, ``ratio`` (the higher the better, unless ``reach`` is an upper
bound), ``reach`` (such as "≥ 0.98"; a number is a lower bound; None where there is none) and an optional ``note``.
A ``run`` that also takes ``short`` is told when only a glance is wanted. Ours and theirs take turns in every
round, and a figure is the median of its rounds. Nothing here asserts a time: a slow machine is no mistake.
"""

from __future__ import annotations


class NotMeasuredError(Exception):
    """Raised by ``run`` when something that it needs is not there; the table says what."""
