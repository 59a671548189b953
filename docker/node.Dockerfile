# The image of pytest-celery's worker nodes in `WITH_DOCKER=1 make test`: this library beside Celery, instead of Celery alone.
FROM python:3.12-slim
RUN useradd --create-home test_user
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY celery_laravel celery_laravel
RUN pip install --no-cache-dir '.[redis,postgresql,cli,testing]'
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 5678
# where pytest-celery mounts the app and its tasks
WORKDIR /app
RUN chown test_user /app
USER test_user
