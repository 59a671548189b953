"""``celery -A app laravel …``: what people do with failed jobs, batches and stores from a terminal."""
