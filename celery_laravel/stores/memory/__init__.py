"""Everything in this process's memory, for tests and for apps of one process.

It is exact, and shared by threads, but another process sees nothing of it: a
`prefork` worker's children each have their own. Use it with the `solo` or
`threads` pool, in eager mode, or in tests.
"""

from celery_laravel.stores.memory.store import MemoryStore

__all__ = ["MemoryStore"]
