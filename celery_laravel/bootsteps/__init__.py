"""What the worker's parent does beside Celery's own work: one step for each feature."""
