"""The progress of batches for web pages: server-sent events and JSON, as routes of Starlette's.

Needs the extra ``starlette``. `BatchProgress` gives the routes.
"""

from celery_laravel.integrations.starlette.progress import BatchProgress, progress_of

__all__ = ["BatchProgress", "progress_of"]
