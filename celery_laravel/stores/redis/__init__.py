"""The store on Redis 6.2 and later, and on what speaks its protocol."""

from __future__ import annotations

from celery_laravel.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
