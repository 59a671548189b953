"""Finds out what is wrong: with the store, the broker, the workers, and with batches that do not go on."""

from celery_laravel.operations.doctor.examination import Examination, examine
from celery_laravel.operations.doctor.findings import Finding, Level

__all__ = ["Examination", "Finding", "Level", "examine"]
